"""Calibration: what the inputs of a model's matrices are like, over a text.

The unquantized model reads the text layer by layer, all of it through one operation before the next, so that
each weight is read once and none stays in memory. The products are those of edgellm.quant.matrix: the same
bits for any number of threads.

Of each matrix the mean squares of its inputs' columns are kept (importance.py). For error feedback second
moments are wanted too (moments.py); they are written to a folder as they come, one file for matrices with the
same input. Memory: the values between operations for all tokens, about 4 * n_tokens * (2 * feed-forward width
+ 4 * width) bytes, one weight, and one file of moments. Between layers, where few values are waiting, the
state is handed out, so that a run that ends early can go on.

calibration.txt was written for this package and is under its licence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm.convert.interrupted import Calibration, State
from edgellm.convert.moments import write_means, write_rows
from edgellm.convert.reading import reader
from edgellm.errors import ModelError, UsageError
from edgellm.program import Program
from edgellm.program.ops import Op
from edgellm.quant.matrix import add_moments
from edgellm.tokenizer import Tokenizer

Floats = NDArray[np.float32]
# Tokens of a sequence, and of the whole text for importances alone and for moments.
WINDOW = 512
QUICK_TOKENS = 512
FULL_TOKENS = 16384
# Sections of the bundled text that are conversations begin so; their lines begin with a role.
_CHAT = "@chat\n"
# Modules of this package that are read as code.
_MODULES = (
    "engine/scheduler.py",
    "tokenizer/tokenizer.py",
    "chat/template.py",
    "gguf/writer.py",
    "engine/planning.py",
)
_PASSAGE = 1600
# Of so many texts one is not read by calibration.
_HELD_OUT = 4
_CHARACTERS_PER_TOKEN = 3
# Rows whose squares are taken together.
_SQUARED = 16
# Least time between two states that are handed out, in seconds.
KEPT_EVERY = 60.0

Turn = dict[str, str]
# Tokens of a conversation in a model's own form, None for one that its template refuses.
Render = Callable[[list[Turn]], list[int] | None]
Progress = Callable[[int, int], None]


def bundled_texts() -> list[str | list[Turn]]:
    """The bundled calibration text: texts, conversations, and modules of this package as code."""
    return [text for number, text in enumerate(_texts()) if number % _HELD_OUT]


def held_out_texts() -> list[str | list[Turn]]:
    """A part of the bundled text that no calibration reads, for receipts."""
    return [text for number, text in enumerate(_texts()) if number % _HELD_OUT == 0]


def _texts() -> list[str | list[Turn]]:
    package = resources.files("edgellm")
    text = package.joinpath("convert", "calibration.txt").read_text("utf-8")
    modules = (package.joinpath(name).read_text("utf-8") for name in _MODULES)
    code = iter([part for module in modules for part in passages(module, 4096)])
    found: list[str | list[Turn]] = []
    for number, section in enumerate(text.rstrip().split("\n====\n")):
        found.append(_turns(section) if section.startswith(_CHAT) else section)
        if number % 3 == 2 and (part := next(code, None)) is not None:
            found.append(part)
    return [*found, *code]


def plain_text(text: str | list[Turn]) -> str:
    """A text, or the contents of a conversation's messages, a line for each."""
    return text if isinstance(text, str) else "\n".join(turn["content"] for turn in text)


def passages(text: str, n_tokens: int) -> list[str]:
    """Passages of a text, evenly spread over it, that hold about n_tokens tokens at most."""
    wanted = max(1, n_tokens * _CHARACTERS_PER_TOKEN // _PASSAGE)
    starts = range(0, len(text), _PASSAGE)
    if len(starts) > wanted:
        starts = range(0, len(text), len(text) // wanted)[:wanted]
    found = [text[start : start + _PASSAGE].strip() for start in starts]
    return [passage for passage in found if passage]


def _turns(section: str) -> list[Turn]:
    """The messages of a conversation: a line that begins with a role begins one."""
    turns: list[Turn] = []
    for line in section.removeprefix(_CHAT).split("\n"):
        role, colon, rest = line.partition(": ")
        if colon and role in ("system", "user", "assistant"):
            turns.append({"role": role, "content": rest})
        else:
            turns[-1]["content"] += "\n" + line
    return turns


def sequences(
    texts: Sequence[str | list[Turn]],
    tokenizer: Tokenizer,
    n_tokens: int,
    n_ctx: int,
    render: Render | None = None,
) -> list[list[int]]:
    """Token sequences of at most WINDOW tokens, n_tokens in all, with what the model wants around a text.

    A conversation that is not rendered is read as its messages' plain text. Raises UsageError for texts
    without tokens.
    """
    ids: list[int] = []
    for text in texts:
        made = render(text) if render is not None and not isinstance(text, str) else None
        if made is None:
            made = tokenizer.encode(plain_text(text) + "\n\n", add_special=False)
        ids += made
        if len(ids) >= n_tokens:
            break
    if not ids:
        raise UsageError("the calibration text holds no tokens; give a longer one")
    before, after = tokenizer.surroundings
    step = max(1, min(WINDOW, n_ctx) - len(before) - len(after))
    starts = range(0, min(len(ids), n_tokens), step)
    return [[*before, *ids[start : start + step], *after] for start in starts]


def calibrate(
    program: Program,
    weights: Mapping[str, Floats],
    texts: Sequence[Sequence[int]],
    *,
    threads: int,
    moments: Path | None = None,
    begun: State | None = None,
    keep: Callable[[State], None] | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Read token sequences with a model; moments: the folder for files of second moments, None: none.

    begun: state of an earlier run over the same texts. keep: called with states now and then. progress:
    called with the numbers of operations done and to do. Raises ModelError for values that are not finite.
    """
    begun = begun or State(0, [], Calibration())
    collector = _Collector(program, threads, moments, begun.found)
    last = next(i for i, op in enumerate(program.ops) if op.out == program.hidden)
    # The head's input is all that is wanted of what follows.
    body = program._replace(ops=program.ops[: last + 1], logits=None)
    model = reader(body, weights, threads=threads, n_texts=len(texts), observe=collector.observe)
    fewest, kept = min(_n_waiting(body)), time.monotonic()
    steps = model.steps(texts, begun.n_done, begun.waiting)
    for done, (op, outputs, waiting) in enumerate(steps, begun.n_done + 1):
        if not all(np.isfinite(rows).all() for rows in outputs):
            raise _damaged(op, weights)
        if op.out == program.hidden:
            for head in program.ops[last + 1 :]:
                if head.kind == "linear" and head.ins[0] == program.hidden:
                    for rows in outputs:
                        collector.observe(head.weights["weight"], 0, rows)
        collector.finish()
        few = waiting is not None and len(waiting[0]) == fewest
        if keep is not None and waiting is not None and few and time.monotonic() - kept >= KEPT_EVERY:
            keep(State(done, waiting, collector.found))
            kept = time.monotonic()
        if progress is not None:
            progress(done, last + 1)
    return collector.found


def _n_waiting(program: Program) -> list[int]:
    """Numbers of values that later ops read, after each op."""
    last_use = {name: i for i, op in enumerate(program.ops) for name in op.ins}
    change = [1 - sum(last_use[name] == i for name in set(op.ins)) for i, op in enumerate(program.ops)]
    return list(np.cumsum(change))


class _Collector:
    """Sums of squares of all inputs; of those of matrices and experts moments, too."""

    def __init__(self, program: Program, threads: int, folder: Path | None, found: Calibration) -> None:
        self.found = found
        self._shapes = program.weights
        self._threads = threads
        self._folder = folder
        # Matrices by the value that they multiply; the first one's moments are those of all.
        matrices: dict[str, list[str]] = {}
        for op in program.ops:
            for role, value in _MULTIPLIED.get(op.kind, {}).items():
                if role in op.weights:
                    matrices.setdefault(value(op), []).append(op.weights[role])
        self._first = {names[0]: names for names in matrices.values()}
        self._sums: dict[str, Floats] = {}
        self._rows: dict[str, dict[int, list[Floats]]] = {}

    def observe(self, name: str, number: int, rows: Floats) -> None:
        """Add the rows that matrix `number` of a weight multiplies."""
        sums, counts = self.found.statistics.sums, self.found.statistics.counts
        shape = self._shapes[name]
        if name not in sums:
            n_matrices = shape[0] if len(shape) == 3 else 1
            sums[name], counts[name] = np.zeros((n_matrices, shape[-1])), np.zeros(n_matrices)
        _add_squares(rows, sums[name][number])
        counts[name][number] += len(rows)
        if self._folder is None or name not in self._first:
            return
        if len(shape) == 3:
            self._rows.setdefault(name, {}).setdefault(number, []).append(rows)
            return
        n = rows.shape[1]
        total = self._sums.setdefault(name, np.zeros((n, n), np.float32))
        add_moments(rows, total, threads=self._threads)

    def finish(self) -> None:
        """Write the moments of the operation that is done."""
        for name, sums in self._sums.items():
            n_rows = int(self.found.statistics.counts[name][0])
            self._note(name, write_means(self._base(), sums, n_rows))
        for name, rows in self._rows.items():
            self._note(name, write_rows(self._base(), rows, self._shapes[name][0]))
        self._sums.clear()
        self._rows.clear()

    def _base(self) -> Path:
        assert self._folder is not None
        return self._folder / f"{len(self.found.moments):05}"

    def _note(self, name: str, path: Path) -> None:
        self.found.moments |= dict.fromkeys(self._first[name], path)


def _add_squares(rows: Floats, sums: NDArray[np.float64]) -> None:
    """Add the squares of rows (n, cols) to sums (cols,), one row after another; few rows stay in a cache."""
    found = np.zeros((1 + _SQUARED, rows.shape[1]))
    for start in range(0, len(rows), _SQUARED):
        some = rows[start : start + _SQUARED]
        np.square(some, dtype=np.float64, out=found[1 : 1 + len(some)])
        found[0] = found[: 1 + len(some)].sum(axis=0)
    sums += found[0]


# Roles of weights that multiply rows, and the name of the rows: those of experts' down matrices have none.
_MULTIPLIED: dict[str, dict[str, Callable[[Op], str]]] = {
    "linear": {"weight": lambda op: op.ins[0]},
    "moe": {
        "gate_up": lambda op: f"{op.out} in",
        "gate": lambda op: f"{op.out} in",
        "up": lambda op: f"{op.out} in",
        "down": lambda op: f"{op.out} inner",
    },
}


def _damaged(op: Op, weights: Mapping[str, Floats]) -> ModelError:
    for name in op.weights.values():
        if not np.isfinite(weights[name]).all():
            return ModelError(f"tensor {name}: a value is NaN or infinite; the checkpoint is damaged")
    return ModelError("the model gives values that are not finite; the checkpoint is damaged")
