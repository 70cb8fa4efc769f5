"""Formats of a file's tensors for a number of bytes, by what each group of tensors is found to cost.

Tensors of one kind in some layers are a group: those of the first layer, of the second, of the first half of
the others, of the rest. A group's sensitivity is measured: the divergence that the model shows when this
group alone is in a coarse format, over the errors of its outputs there. Times a tensor's own error in each
format it estimates the divergence, which is minimal under the bytes.

Errors are shares of an output's own squares. What a layer adds to its input grows a hundredfold from the
first layers to the last, and its error grows with it; the divergence that a share costs stays alike, but for
the first two layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgellm.convert.moments import is_of_a_stack
from edgellm.convert.pipeline import Tensor, with_importance
from edgellm.convert.receipt import Divergence
from edgellm.errors import UsageError
from edgellm.gguf.types import GGMLType
from edgellm.program import Program
from edgellm.program.interpreter import Interpreter
from edgellm.quant import native
from edgellm.quant.matrix import exponentials, multiply

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]
Rounded = Callable[[Any, Floats, Floats | None, int], Floats]

# Formats that are chosen from, with fast kernels all of them, for rows of whole super-blocks and for others.
_SUPER = tuple(GGMLType[name] for name in ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0"))
_SMALL = tuple(GGMLType[name] for name in ("IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0"))
# Formats of groups whose sensitivity is measured.
_COARSE = {256: GGMLType.Q3_K, 32: GGMLType.Q4_0}
# Layers, the first ones, that are groups of their own, and groups of the others.
_FIRST, _OTHERS = 2, 2
# Rows of a tensor that its errors are estimated by.
_SAMPLED_ROWS = 128
# Steps of the searches for the prices of a byte and of a second, and the highest of the latter.
_PRICES, _HURRIES, _MOST_HURRY = 100, 12, 1e9


class Option(NamedTuple):
    """A format of a tensor: its bytes, the divergence that it is expected to add, its time for a token.

    kind: of GGUF, or of what else is written.
    """

    kind: Any
    n_bytes: int
    cost: float
    seconds: float = 0.0


class Pace(NamedTuple):
    """Time of matrices for a token of an answer, on one machine.

    seconds: most for all of them. byte_s: seconds for a byte of each format. shares: parts of tensors that a
    token reads, by name; nothing of others.
    """

    seconds: float
    byte_s: Mapping[GGMLType, float]
    shares: Mapping[str, float]

    def of(self, tensor: Tensor, kind: GGMLType) -> float:
        """Seconds for a tensor in a format."""
        share = self.shares.get(tensor.name, 0.0)
        return share * native.n_bytes(kind, tensor.shape) * self.byte_s[kind] if share else 0.0


def candidates(cols: int) -> tuple[GGMLType, ...]:
    """Formats for rows of so many values."""
    return _SUPER if cols % 256 == 0 else _SMALL if cols % 32 == 0 else ()


def group(name: str, n_layers: int) -> str:
    """Name of a tensor's group."""
    match = re.match(r"blk\.(\d+)\.(.*)", name)
    if match is None:
        return name
    layer = int(match[1])
    number = layer if layer < _FIRST else _FIRST + (layer - _FIRST) * _OTHERS // (n_layers - _FIRST)
    return f"{match[2]} {number}"


def sensitivities(
    program: Program,
    weights: Mapping[str, Floats],
    tensors: Sequence[Tensor],
    ids: Sequence[int],
    *,
    threads: int,
    known: dict[str, float] | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Divergence over error of outputs (`errors`), of each tensor's group.

    weights: the source's. tensors: those to choose formats for. known: sensitivities that an earlier run has
    found, by group; others are added. progress: called with groups done and to do.
    """
    if program.logits is None:
        raise UsageError(
            f"the {program.family} model is an encoder: it has no logits to choose formats by; "
            "use --calibrate without --best, --size and --bpw"
        )
    n_layers = 1 + max(
        (int(m[1]) for m in (re.match(r"blk\.(\d+)\.", t.name) for t in tensors) if m), default=0
    )
    groups: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(group(tensor.name, n_layers), []).append(tensor)
    found = {} if known is None else known
    readers = [set(op.weights.values()) for op in program.ops]
    starts = {
        name: min(i for i, read in enumerate(readers) if any(member.name in read for member in members))
        for name, members in groups.items()
    }
    text = (
        None if groups.keys() <= found.keys() else _Text(program, weights, ids, set(starts.values()), threads)
    )
    for done, (name, members) in enumerate(groups.items()):
        if text is None or name in found:
            continue
        changed = _Changed(weights, {member.name: member for member in members}, threads)
        after = text.read(changed, starts[name])
        loss = sum(errors(member, [_coarse(member)], threads)[0] for member in members)
        change = Divergence()
        change.add(text.logits, after, ids)
        # Rounded, so that the last bits of a machine's exponentials decide nothing.
        found[name] = float(f"{change.kld / loss:.3g}") if loss > 0 else 0.0
        if progress is not None:
            progress(done + 1, len(groups))
    return {tensor.name: found[group(tensor.name, n_layers)] for tensor in tensors}


class _Text:
    """A text that a model has read, and reads again with other weights: from the first that differs on."""

    def __init__(
        self,
        program: Program,
        weights: Mapping[str, Floats],
        ids: Sequence[int],
        starts: set[int],
        threads: int,
    ) -> None:
        """starts: numbers of ops that may be the first to read another weight."""
        self._program = program
        self._ids = ids
        self._product = partial(multiply, threads=threads)
        # Ops that are done, and the values that wait then, by the op that comes first.
        self._begun: dict[int, tuple[int, list[dict[str, Floats]]]] = {}
        latest: tuple[int, list[dict[str, Floats]]] = (0, [])
        steps = Interpreter(program, weights, multiply=self._product, exp=exponentials).steps([ids])
        for number, step in enumerate(steps):
            if number in starts:
                self._begun[number] = latest
            if step.waiting is not None:
                latest = (number + 1, [dict(step.waiting[0])])
            if step.op.out == program.logits:
                self.logits = step.made[0]

    def read(self, weights: Mapping[str, Floats], start: int) -> Floats:
        """Logits (n_tokens, n_vocab) with weights of which none that is read before op `start` differs."""
        model = Interpreter(self._program, weights, multiply=self._product, exp=exponentials)
        steps = model.steps([self._ids], *self._begun[start])
        return next(step.made[0] for step in steps if step.op.out == self._program.logits)


class _Changed(Mapping[str, Floats]):
    """Weights of which some are as a coarse format leaves them."""

    def __init__(self, weights: Mapping[str, Floats], coarse: Mapping[str, Tensor], threads: int) -> None:
        self._weights = weights
        self._coarse = coarse
        self._threads = threads

    def __getitem__(self, name: str) -> Floats:
        tensor = self._coarse.get(name)
        if tensor is None:
            return self._weights[name]
        kind = _coarse(tensor)
        parts = [
            _rounded(kind, values, importance, self._threads)
            for values, importance, _ in with_importance(tensor)
        ]
        return np.concatenate(parts).reshape(tensor.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def _coarse(tensor: Tensor) -> GGMLType:
    return _COARSE[256 if tensor.shape[-1] % 256 == 0 else 32]


def _rounded(kind: GGMLType, values: Floats, importance: Floats | None, threads: int) -> Floats:
    raw = native.encode_rows(kind, values, importance, threads=threads)
    return native.decode_values(kind, raw, values.shape, threads=threads)


def errors(tensor: Tensor, kinds: Sequence[Any], threads: int, rounded: Rounded | None = None) -> list[float]:
    """Square error of a tensor's outputs in each format, over their squares; some of its rows tell.

    rounded: the values that a format leaves of some, for kinds that are no formats of GGUF.
    """
    rounded = rounded or _rounded
    moments = None
    if tensor.moments is not None and not is_of_a_stack(tensor.moments):
        moments = np.load(tensor.moments)

    def squares(rows: Floats, importance: Floats | None) -> float:
        """Sum of the squares of what the rows of a matrix give."""
        if moments is not None:
            return float((multiply(rows, moments, threads=threads).astype(np.float64) * rows).sum())
        return float((np.square(rows, dtype=np.float64) * (1.0 if importance is None else importance)).sum())

    step = max(1, prod(tensor.shape[:-1]) // _SAMPLED_ROWS)
    found = np.zeros(len(kinds))
    power = 0.0
    row = 0
    for values, importance, _ in with_importance(tensor):
        sample = np.ascontiguousarray(values[-row % step :: step])
        row += len(values)
        if not len(sample):
            continue
        power += squares(sample, importance)
        for i, kind in enumerate(kinds):
            found[i] += squares(rounded(kind, sample, importance, threads) - sample, importance)
    return [float(error) / power if power > 0 else 0.0 for error in found]


def options(tensor: Tensor, sensitivity: float, threads: int, pace: Pace | None = None) -> list[Option]:
    """The formats that a tensor may have."""
    kinds = candidates(tensor.shape[-1])
    return [
        Option(
            kind,
            native.n_bytes(kind, tensor.shape),
            sensitivity * error,
            0.0 if pace is None else pace.of(tensor, kind),
        )
        for kind, error in zip(kinds, errors(tensor, kinds, threads), strict=True)
    ]


def allocate(
    choices: Mapping[str, Sequence[Option]], n_bytes: int, seconds: float = math.inf
) -> dict[str, Option]:
    """An option of each tensor, of least cost in all, within n_bytes and seconds.

    The smallest ones if none fit the bytes, and nearly the fastest of those if none fit the seconds.
    """
    chosen = _cheapest(choices, n_bytes, 0.0)
    slow, quick = 0.0, 1e-9
    while _seconds(chosen) > seconds and quick < _MOST_HURRY:
        slow, quick = quick, 10 * quick
        chosen = _cheapest(choices, n_bytes, quick)
    if slow:
        for _ in range(_HURRIES):
            middle = (slow * quick) ** 0.5
            trial = _cheapest(choices, n_bytes, middle)
            if _seconds(trial) > seconds:
                slow = middle
            else:
                quick, chosen = middle, trial
    left = n_bytes - sum(option.n_bytes for option in chosen.values())
    time = seconds - _seconds(chosen)
    # The rest of the budget goes to single tensors, the best bargain first.
    while True:
        bargains = [
            ((now.cost - option.cost) / (option.n_bytes - now.n_bytes), name, option)
            for name, now in chosen.items()
            for option in choices[name]
            if 0 < option.n_bytes - now.n_bytes <= left
            and option.cost < now.cost
            and option.seconds - now.seconds <= max(time, 0.0)
        ]
        if not bargains:
            return chosen
        _, name, option = max(bargains, key=lambda bargain: bargain[:2])
        left -= option.n_bytes - chosen[name].n_bytes
        time -= option.seconds - chosen[name].seconds
        chosen[name] = option


def _seconds(chosen: Mapping[str, Option]) -> float:
    return sum(option.seconds for option in chosen.values())


def _cheapest(choices: Mapping[str, Sequence[Option]], n_bytes: int, hurry: float) -> dict[str, Option]:
    """Options of least cost within n_bytes, where a second costs `hurry`; the smallest ones if none fit."""

    def for_price(price: float) -> dict[str, Option]:
        """Options for a price of a byte."""
        return {
            name: min(
                found,
                key=lambda option: (
                    option.cost + hurry * option.seconds + price * option.n_bytes,
                    option.n_bytes,
                ),
            )
            for name, found in choices.items()
        }

    low, high = 0.0, 1.0
    for _ in range(_PRICES):
        middle = (low + high) / 2
        fits = sum(option.n_bytes for option in for_price(middle).values()) <= n_bytes
        low, high = (low, middle) if fits else (middle, high)
    return for_price(high)
