"""Formats of a file's tensors for a number of bytes, by what each group of tensors is found to cost.

Tensors of one kind in some layers are a group: those of the first layer, of the second, of the first half of
the others, of the rest. A group's sensitivity is measured: the divergence that the model shows when this
group alone is quantized, over the errors of its outputs then. Times a tensor's own error in each format,
and what error feedback leaves of that in the group's middle layer, it estimates the divergence, which is
minimal under the bytes.

Errors are shares of an output's own squares. What a layer adds to its input grows a hundredfold from the
first layers to the last, and its error grows with it; the divergence that a share costs stays alike, but for
the first two layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgellm.convert.moments import is_of_a_stack, read_moments
from edgellm.convert.pipeline import Feedbacks, Tensor, with_importance
from edgellm.convert.reading import reader
from edgellm.convert.receipt import Divergence
from edgellm.errors import UsageError
from edgellm.gguf.types import GGMLType
from edgellm.program import Program
from edgellm.program.interpreter import Step
from edgellm.quant import native
from edgellm.quant.feedback import Feedback, takes_feedback
from edgellm.quant.matrix import multiply

Floats = NDArray[np.float32]
Progress = Callable[[int, int], None]

# Formats that are chosen from, with fast kernels all of them, for rows of whole super-blocks and for others.
_SUPER = tuple(GGMLType[name] for name in ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0"))
_SMALL = tuple(GGMLType[name] for name in ("IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0"))
# Formats of groups whose sensitivity is measured. In coarser ones a group's divergence is no longer in
# proportion to its errors.
_PROBED = {256: GGMLType.Q5_K, 32: GGMLType.Q5_1}
# Layers, the first ones, that are groups of their own, and groups of the others.
_FIRST, _OTHERS = 2, 2
# Groups whose sensitivity is measured side by side.
_TOGETHER = 8
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


class Formats(NamedTuple):
    """Formats that tensors may have: those of GGUF, or of what else is written.

    of: for rows of so many values. n_bytes: of a tensor. block: values that feedback encodes together, None
    for a format that takes none. rounded: values (rows, cols) as a format leaves them, encoded by importances
    or by feedback.
    """

    of: Callable[[int], Sequence[Any]]
    n_bytes: Callable[[Any, tuple[int, ...]], int]
    block: Callable[[Any], int | None]
    rounded: Callable[[Any, Floats, Floats | None, Feedback | None, int], Floats]


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


def _groups(tensors: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    """Tensors by their group, in order."""
    matches = (re.match(r"blk\.(\d+)\.", tensor.name) for tensor in tensors)
    n_layers = 1 + max((int(match[1]) for match in matches if match), default=0)
    groups: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(group(tensor.name, n_layers), []).append(tensor)
    return groups


def sensitivities(
    program: Program,
    weights: Mapping[str, Floats],
    tensors: Sequence[Tensor],
    texts: Sequence[Sequence[int]],
    *,
    threads: int,
    known: dict[str, float] | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Divergence over error of outputs (`errors`), of each tensor's group.

    weights: the source's. tensors: those to choose formats for. texts: token sequences to read. known:
    sensitivities that an earlier run has found, by group; others are added. progress: called with groups done
    and to do.
    """
    if program.logits is None:
        raise UsageError(
            f"the {program.family} model is an encoder: it has no logits to choose formats by; "
            "use --calibrate without --best, --size and --bpw"
        )
    groups = _groups(tensors)
    found = {} if known is None else known
    readers = [set(op.weights.values()) for op in program.ops]
    starts = {
        name: min(i for i, read in enumerate(readers) if any(member.name in read for member in members))
        for name, members in groups.items()
    }
    left = sorted(groups.keys() - found.keys(), key=lambda name: (starts[name], name))
    read = _Texts(program, weights, texts, set(starts.values()), threads) if left else None
    while read is not None and left:
        together, left = left[:_TOGETHER], left[_TOGETHER:]
        changed = {name: {member.name: member for member in groups[name]} for name in together}
        for name, kld in read.divergences({name: (starts[name], changed[name]) for name in together}):
            loss = sum(errors(member, [_probed(member)], threads)[0] for member in groups[name])
            # Rounded, so that the last bits of a machine's exponentials decide nothing.
            found[name] = float(f"{kld / loss:.3g}") if loss > 0 else 0.0
            if progress is not None:
                progress(len(groups.keys() & found.keys()), len(groups))
    return {member.name: found[name] for name, members in groups.items() for member in members}


class _Texts:
    """Texts that a model has read, and reads again with other weights: from the first that differs on."""

    def __init__(
        self,
        program: Program,
        weights: Mapping[str, Floats],
        texts: Sequence[Sequence[int]],
        starts: set[int],
        threads: int,
    ) -> None:
        """starts: numbers of ops that may be the first to read another weight."""
        self._program = program
        self._weights = weights
        self._threads = threads
        self._texts = texts
        # Ops that are done, and the values that wait then, by the op that comes first.
        self._begun: dict[int, tuple[int, list[dict[str, Floats]]]] = {}
        latest: tuple[int, list[dict[str, Floats]]] = (0, [])
        model = reader(program, weights, threads=threads, n_texts=len(texts))
        for number, step in enumerate(model.steps(texts)):
            if number in starts:
                self._begun[number] = latest
            if step.waiting is not None:
                latest = (number + 1, [dict(values) for values in step.waiting])
            if step.op.out == program.logits:
                self._logits = step.made

    def divergences(
        self, variants: Mapping[str, tuple[int, Mapping[str, Tensor]]]
    ) -> Iterator[tuple[str, float]]:
        """Names of variants, and the divergence of each with other weights.

        variants: the first op that reads another weight, and the tensors that are as a format leaves them.
        All do one op before the next, so that weights, which may have to be decoded, are read once.
        """
        op_weights = _Latest(self._weights)
        runs: dict[str, Iterator[Step]] = {}
        workers = min(self._threads, len(variants))
        with ThreadPoolExecutor(workers) as pool:
            for number, op in enumerate(self._program.ops):
                op_weights.forget()
                for name, (start, tensors) in variants.items():
                    done, waiting = self._begun[start]
                    if number == done:
                        changed = _Changed(op_weights, tensors, self._threads)
                        model = reader(self._program, changed, threads=-(-self._threads // workers))
                        runs[name] = model.steps(self._texts, done, waiting)
                if op.out != self._program.logits:
                    list(pool.map(next, runs.values()))
                    continue
                yield from zip(runs, pool.map(self._divergence, runs.values()), strict=True)
                return

    def _divergence(self, run: Iterator[Step]) -> float:
        """Divergence of a run whose next op makes the logits."""
        found = Divergence()
        for before, after, ids in zip(self._logits, next(run).made, self._texts, strict=True):
            found.add(before, after, ids)
        return found.kld


class _Latest(Mapping[str, Floats]):
    """Weights, those kept that were read since all were forgotten."""

    def __init__(self, weights: Mapping[str, Floats]) -> None:
        self._weights = weights
        self._kept: dict[str, Floats] = {}
        self._reading = Lock()

    def forget(self) -> None:
        """Keep none."""
        self._kept.clear()

    def __getitem__(self, name: str) -> Floats:
        with self._reading:
            if name not in self._kept:
                self._kept[name] = self._weights[name]
            return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


class _Changed(Mapping[str, Floats]):
    """Weights of which some are as a format leaves them."""

    def __init__(self, weights: Mapping[str, Floats], probed: Mapping[str, Tensor], threads: int) -> None:
        self._weights = weights
        self._probed = probed
        self._threads = threads

    def __getitem__(self, name: str) -> Floats:
        tensor = self._probed.get(name)
        if tensor is None:
            return self._weights[name]
        kind = _probed(tensor)
        found = np.empty((prod(tensor.shape[:-1]), tensor.shape[-1]), np.float32)
        row = 0
        for values, importance, _ in with_importance(tensor):
            found[row : row + len(values)] = _rounded(kind, values, importance, None, self._threads)
            row += len(values)
        return found.reshape(tensor.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def _probed(tensor: Tensor) -> GGMLType:
    return _PROBED[256 if tensor.shape[-1] % 256 == 0 else 32]


def _rounded(
    kind: GGMLType, values: Floats, importance: Floats | None, feedback: Feedback | None, threads: int
) -> Floats:
    if feedback is None:
        raw = native.encode_rows(kind, values, importance, threads=threads)
    else:
        raw = feedback.encode(kind, values)
    return native.decode_values(kind, raw, values.shape, threads=threads)


def _block(kind: GGMLType) -> int | None:
    return kind.block_size if takes_feedback(kind) else None


GGUF_FORMATS = Formats(candidates, native.n_bytes, _block, _rounded)


def errors(
    tensor: Tensor, kinds: Sequence[Any], threads: int, formats: Formats = GGUF_FORMATS
) -> list[float]:
    """Square error of a tensor's outputs in each format, over their squares; some of its rows tell."""
    moments = None
    if tensor.moments is not None and not is_of_a_stack(tensor.moments):
        moments = np.load(tensor.moments)
    found = np.zeros(len(kinds))
    power = 0.0
    for rows, importance, _ in _samples(tensor):
        weighing = moments if moments is not None else importance
        power += _squares(rows, weighing, threads)
        for i, kind in enumerate(kinds):
            off = formats.rounded(kind, rows, importance, None, threads) - rows
            found[i] += _squares(off, weighing, threads)
    return [float(error) / power if power > 0 else 0.0 for error in found]


def shares_left(
    tensor: Tensor,
    kinds: Sequence[Any],
    feedbacks: Feedbacks,
    threads: int,
    formats: Formats = GGUF_FORMATS,
) -> dict[Any, float]:
    """Share of the square error of a tensor's outputs that error feedback leaves, by format."""
    alone, fed = np.zeros(len(kinds)), np.zeros(len(kinds))
    for rows, importance, number in _samples(tensor):
        if tensor.moments is None or (read := read_moments(tensor.moments, number, threads=threads)) is None:
            continue
        for i, kind in enumerate(kinds):
            off = formats.rounded(kind, rows, importance, None, threads) - rows
            alone[i] += (error := _squares(off, read[0], threads))
            block = formats.block(kind)
            feedback = None if block is None else feedbacks.of(tensor, block, number)
            if feedback is not None:
                off = formats.rounded(kind, rows, importance, feedback, threads) - rows
                error = _squares(off, read[0], threads)
            fed[i] += error
    return {
        kind: float(left / error) if error > 0 else 1.0
        for kind, left, error in zip(kinds, fed, alone, strict=True)
    }


def _samples(tensor: Tensor) -> Iterator[tuple[Floats, Floats | None, int]]:
    """Some of a tensor's rows, the importances of their columns, the number of their matrix."""
    step = max(1, prod(tensor.shape[:-1]) // _SAMPLED_ROWS)
    row = 0
    for values, importance, number in with_importance(tensor):
        sample = np.ascontiguousarray(values[-row % step :: step])
        row += len(values)
        if len(sample):
            yield sample, importance, number


def _squares(rows: Floats, weighing: Floats | None, threads: int) -> float:
    """Sum of the squares of what rows give; weighing: moments (cols, cols) or importances of columns."""
    if weighing is not None and weighing.ndim == 2:
        return float((multiply(rows, weighing, threads=threads).astype(np.float64) * rows).sum())
    return float((np.square(rows, dtype=np.float64) * (1.0 if weighing is None else weighing)).sum())


def options(
    tensors: Sequence[Tensor],
    sensitivity: Mapping[str, float],
    threads: int,
    pace: Pace | None = None,
    progress: Progress | None = None,
    formats: Formats = GGUF_FORMATS,
) -> dict[str, list[Option]]:
    """The formats that each tensor may have; sensitivity: as `sensitivities` found it."""
    groups = _groups(tensors)
    # Those with the same inputs are neighbours, so that they share what feedback takes long for.
    middles = sorted(
        ((name, members[len(members) // 2]) for name, members in groups.items()),
        key=lambda pair: str(pair[1].moments),
    )
    total, feedbacks = len(groups) + len(tensors), Feedbacks(threads)
    left: dict[str, dict[Any, float]] = {}
    for done, (name, tensor) in enumerate(middles, 1):
        left[name] = shares_left(tensor, formats.of(tensor.shape[-1]), feedbacks, threads, formats)
        if progress is not None:
            progress(done, total)
    found: dict[str, list[Option]] = {}
    for name, members in groups.items():
        for tensor in members:
            kinds = formats.of(tensor.shape[-1])
            found[tensor.name] = [
                Option(
                    kind,
                    formats.n_bytes(kind, tensor.shape),
                    sensitivity[tensor.name] * error * left[name][kind],
                    0.0 if pace is None else pace.of(tensor, kind),
                )
                for kind, error in zip(kinds, errors(tensor, kinds, threads, formats), strict=True)
            ]
            if progress is not None:
                progress(len(groups) + len(found), total)
    return found


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
