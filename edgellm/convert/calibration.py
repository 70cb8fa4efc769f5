"""Calibration: what the inputs of a model's matrices are like, over a text.

The unquantized model reads the text layer by layer, all of it through one operation before the next, so that
each weight is read once and none stays in memory. The products are those of edgellm.quant.matrix: the same
bits for any number of threads.

Of each matrix the mean squares of its inputs' columns are kept (importance.py). For error feedback the means
of products of all pairs of columns are wanted too, second moments; they are written to a folder as they come,
one file for matrices with the same input. Memory: the values between operations for all tokens, about
4 * n_tokens * (2 * feed-forward width + 4 * width) bytes, one weight, and one file of moments.

calibration.txt was written for this package and is under its licence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm.convert.importance import Statistics
from edgellm.errors import ModelError, UsageError
from edgellm.program import Program
from edgellm.program.interpreter import Interpreter
from edgellm.program.ops import Op
from edgellm.quant.matrix import add_moments, multiply
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

Turn = dict[str, str]
# Tokens of a conversation in a model's own form, None for one that its template refuses.
Render = Callable[[list[Turn]], list[int] | None]
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Calibration:
    """Statistics of the inputs; moments: the files of those that have them, means (n_in, n_in), float32."""

    statistics: Statistics = field(default_factory=Statistics)
    moments: dict[str, Path] = field(default_factory=dict)


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
            plain = text if isinstance(text, str) else "\n".join(turn["content"] for turn in text)
            made = tokenizer.encode(plain + "\n\n", add_special=False)
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
    progress: Progress | None = None,
) -> Calibration:
    """Read token sequences with a model; moments: the folder for files of second moments, None: none.

    progress: called with the numbers of operations done and to do. Raises ModelError for values that are not
    finite.
    """
    collector = _Collector(program, threads, moments)
    product = partial(multiply, threads=threads)
    last = next(i for i, op in enumerate(program.ops) if op.out == program.hidden)
    # The head's input is all that is wanted of what follows.
    body = program._replace(ops=program.ops[: last + 1], logits=None)
    model = Interpreter(body, weights, collector.observe, multiply=product)
    for done, (op, outputs) in enumerate(model.steps(texts)):
        if not all(np.isfinite(rows).all() for rows in outputs):
            raise _damaged(op, weights)
        if op.out == program.hidden:
            for reader in program.ops[last + 1 :]:
                if reader.kind == "linear" and reader.ins[0] == program.hidden:
                    for rows in outputs:
                        collector.observe(reader.weights["weight"], 0, rows)
        collector.finish()
        if progress is not None:
            progress(done + 1, last + 1)
    return collector.found


class _Collector:
    """Sums of squares of all inputs; of those of plain matrices moments, too."""

    def __init__(self, program: Program, threads: int, folder: Path | None) -> None:
        self.found = Calibration()
        self._shapes = program.weights
        self._threads = threads
        self._folder = folder
        # Matrices by the value that they multiply; the first one's sums are those of all.
        self._matrices: dict[str, list[str]] = {}
        for op in program.ops:
            if op.kind == "linear":
                self._matrices.setdefault(op.ins[0], []).append(op.weights["weight"])
        self._first = {names[0]: names for names in self._matrices.values()}
        self._others = {name for names in self._matrices.values() for name in names[1:]}
        self._sums: dict[str, Floats] = {}

    def observe(self, name: str, number: int, rows: Floats) -> None:
        """Add the rows that matrix `number` of a weight multiplies."""
        sums, counts = self.found.statistics.sums, self.found.statistics.counts
        if name not in sums:
            shape = self._shapes[name]
            n_matrices = shape[0] if len(shape) == 3 else 1
            sums[name], counts[name] = np.zeros((n_matrices, shape[-1])), np.zeros(n_matrices)
        sums[name][number] += np.square(rows, dtype=np.float64).sum(axis=0)
        counts[name][number] += len(rows)
        if self._folder is not None and name in self._first:
            n = rows.shape[1]
            total = self._sums.setdefault(name, np.zeros((n, n), np.float32))
            add_moments(rows, total, threads=self._threads)

    def finish(self) -> None:
        """Write the moments of the operation that is done."""
        for name, sums in self._sums.items():
            assert self._folder is not None
            path = self._folder / f"{len(self.found.moments):05}.npy"
            np.save(path, sums / np.float32(self.found.statistics.counts[name][0]))
            self.found.moments |= dict.fromkeys(self._first[name], path)
        self._sums.clear()


def _damaged(op: Op, weights: Mapping[str, Floats]) -> ModelError:
    for name in op.weights.values():
        if not np.isfinite(weights[name]).all():
            return ModelError(f"tensor {name}: a value is NaN or infinite; the checkpoint is damaged")
    return ModelError("the model gives values that are not finite; the checkpoint is damaged")
