"""Receipt of a conversion: the difference between a written file and its source.

The same text runs through the program of the file twice, with the source's weights and with the written
ones, both in float32, so that the figures say what the formats lost and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm.convert.calibration import held_out_texts, sequences
from edgellm.convert.pipeline import FilePlan, Pair, write, written_error
from edgellm.convert.quality import Quality
from edgellm.convert.reading import reader
from edgellm.convert.recipes import RECIPES, file_types
from edgellm.convert.source import CheckpointTensor
from edgellm.convert.vocabulary import sample_lines
from edgellm.errors import ModelError
from edgellm.families.registry import build
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import ValueType
from edgellm.gguf.writer import GGUFWriter
from edgellm.program import Program
from edgellm.program.interpreter import Interpreter
from edgellm.quant import native
from edgellm.tokenizer import Tokenizer

Floats = NDArray[np.float32]
# Logits (n_tokens, n_vocab) of one window of tokens after another.
EachLogits = Callable[[Sequence[Sequence[int]]], Iterator[Floats]]
# Tokens that are read, of texts that no calibration reads: half a minute for a model of a billion parameters
# on two cores. A calibration takes longer by far, and its receipt reads more.
N_WINDOWS, WINDOW = 4, 128
CALIBRATED_TOKENS, CALIBRATED_WINDOW = 4096, 256
# The usual formats are compared over one window of so many.
_COMPARED = 4
# Positions of a run, and runs that a standard error can be told by.
RUN, _RUNS = 64, 8
# Positions that are compared together: few stay in a cache.
_ROWS = 2
_PREFIX = "edgellm.quality."


class _Lazy(Mapping[str, Floats]):
    """Weights that are read anew each time they are asked for."""

    def __init__(self, names: Sequence[str], read: Callable[[str], Floats]) -> None:
        self._names = names
        self._read = read

    def __getitem__(self, name: str) -> Floats:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def source_weights(plan: FilePlan) -> Mapping[str, Floats]:
    """The tensors of a plan as their source has them, float32, one in memory at a time."""
    tensors = {tensor.name: tensor for tensor in plan.tensors}

    def read(name: str) -> Floats:
        tensor = tensors[name]
        if isinstance(tensor.source, CheckpointTensor):
            return tensor.source.read()
        values = np.empty((int(np.prod(tensor.shape[:-1], dtype=np.int64)), tensor.shape[-1]), np.float32)
        row = 0
        for piece in tensor.source.pieces():
            values[row : row + len(piece)] = piece
            row += len(piece)
        return values.reshape(tensor.shape)

    return _Lazy(list(tensors), read)


def file_weights(file: GGUFFile, threads: int) -> Mapping[str, Floats]:
    """The tensors of a file, float32, one in memory at a time."""

    def read(name: str) -> Floats:
        info = file.tensors[name]
        values = native.decode_values(info.type, file.data(name), info.shape, threads=threads)
        file.release(name)
        return values

    return _Lazy(list(file.tensors), read)


def reserve(plan: FilePlan, *, source: str, revision: str) -> None:
    """Make room for the receipt in the metadata of a plan: the values follow when they are known."""
    longest = max((len(tensor.name) for tensor in plan.tensors), default=0)
    empty = Quality(0, 0, 0, 0, 0, 0, "", 0, plain_type=" " if is_calibrated(plan) else "")
    plan.metadata |= quality_pairs(empty, longest)
    plan.metadata |= origin_pairs(source, revision, "0" * 64)


def store(writer: GGUFWriter, plan: FilePlan, quality: Quality, digest: str) -> None:
    """Write the receipt into the room that `reserve` made."""
    longest = max((len(tensor.name) for tensor in plan.tensors), default=0)
    for key, pair in quality_pairs(quality, longest).items():
        writer.replace(key, pair.value, pair.kind)
    writer.replace(f"{_PREFIX}source_sha256", digest)


def origin_pairs(source: str, revision: str, digest: str) -> dict[str, Pair]:
    """Origin of a file as metadata; digest: SHA-256 of the source."""
    return {
        f"{_PREFIX}source": Pair(source),
        f"{_PREFIX}revision": Pair(revision),
        f"{_PREFIX}source_sha256": Pair(digest),
    }


def quality_pairs(quality: Quality, longest: int = 0) -> dict[str, Pair]:
    """The figures of a receipt as metadata; longest: room for the name of a tensor."""
    plain = {
        f"{_PREFIX}plain_type": Pair(quality.plain_type.ljust(max(map(len, RECIPES)))),
        f"{_PREFIX}plain_bytes": Pair(quality.plain_bytes, ValueType.UINT64),
        f"{_PREFIX}plain_kld": Pair(quality.plain_kld, ValueType.FLOAT32),
    }
    return (plain if quality.plain_type else {}) | {
        f"{_PREFIX}tokens": Pair(quality.n_tokens, ValueType.UINT32),
        f"{_PREFIX}top1": Pair(quality.top1, ValueType.FLOAT32),
        f"{_PREFIX}kld": Pair(quality.kld, ValueType.FLOAT32),
        f"{_PREFIX}kld_error": Pair(quality.kld_error, ValueType.FLOAT32),
        f"{_PREFIX}kld_p99": Pair(quality.kld_p99, ValueType.FLOAT32),
        f"{_PREFIX}perplexity": Pair(quality.perplexity, ValueType.FLOAT32),
        f"{_PREFIX}source_perplexity": Pair(quality.source_perplexity, ValueType.FLOAT32),
        f"{_PREFIX}cosine": Pair(quality.cosine, ValueType.FLOAT32),
        f"{_PREFIX}worst_error": Pair(quality.worst_error, ValueType.FLOAT32),
        # Padded: its length must be known before the tensor is.
        f"{_PREFIX}worst_tensor": Pair(quality.worst_tensor.ljust(longest)),
    }


def is_calibrated(plan: FilePlan) -> bool:
    """True if rounding errors of some tensors are made up for."""
    return any(tensor.moments is not None for tensor in plan.tensors)


def measure(plan: FilePlan, file: GGUFFile, scratch: Path, *, threads: int) -> Quality:
    """Compare the tensors of a written file with those of the plan's source.

    scratch: path of a file that is written for comparison with a calibrated one, and removed. Raises
    ModelError if the file gives values that are not finite.
    """
    shapes = {name: info.shape for name, info in file.tensors.items()}
    program = build(file.metadata, shapes)
    tokenizer = Tokenizer.from_metadata(file.metadata)
    written = file_weights(file, threads)
    for tensor in plan.tensors:
        # Written by an earlier, interrupted attempt.
        if tensor.name not in plan.errors:
            plan.errors[tensor.name] = written_error(tensor, file.data(tensor.name), threads)
    if program.logits is None:
        before = reader(program, source_weights(plan), threads=threads)
        after = reader(program, written, threads=threads)
        return _compare_embeddings(before, after, tokenizer, *_worst(plan))
    many = partial(reader, program, threads=threads, n_texts=N_WINDOWS)
    logits = many(written).each_logits
    if not is_calibrated(plan):
        return measure_logits(plan, program, tokenizer, logits, threads=threads)
    kind, plain = _plain(plan)
    try:
        scratch.unlink(missing_ok=True)
        write(plain, scratch, threads=threads)
        with GGUFFile.open(scratch) as other:
            usual = many(file_weights(other, threads)).each_logits
            found = measure_logits(plan, program, tokenizer, logits, usual, threads=threads)
    finally:
        scratch.unlink(missing_ok=True)
    return replace(found, plain_type=kind, plain_bytes=plain.n_bytes)


def _plain(plan: FilePlan) -> tuple[str, FilePlan]:
    """The recipe whose bytes come next to a plan's, its own among equals, and its plan without feedback."""
    metadata = {key: pair.value for key, pair in plan.metadata.items()}
    shapes = {tensor.name: tensor.shape for tensor in plan.tensors}
    architecture = str(metadata["general.architecture"])
    found = []
    for chosen in RECIPES.values():
        types = file_types(chosen, architecture, metadata, shapes)
        tensors = [
            replace(tensor, moments=None, type=tensor.type if tensor.asked else types[tensor.name])
            for tensor in plan.tensors
        ]
        plain = FilePlan(dict(plan.metadata), tensors, plan.inputs)
        off = abs(plain.n_bytes - plan.n_bytes)
        found.append((off, chosen.file_type != metadata["general.file_type"], chosen.name, plain))
    _, _, kind, plain = min(found, key=lambda each: each[:3])
    return kind, plain


def measure_logits(
    plan: FilePlan,
    program: Program,
    tokenizer: Tokenizer,
    after: EachLogits,
    usual: EachLogits | None = None,
    *,
    threads: int,
) -> Quality:
    """Compare the logits that `after` gives for the sample with the source's.

    usual: those of the usual formats, for plain_kld; some of the sample tells. Raises ModelError for logits
    that are not finite.
    """
    worst, worst_error = _worst(plan)
    before = reader(program, source_weights(plan), threads=threads, n_texts=N_WINDOWS)
    found, same, plain = Divergence(), Divergence(), Divergence()
    calibrated = is_calibrated(plan)
    size = min(CALIBRATED_WINDOW if calibrated else WINDOW, program.n_ctx_train)
    windows = sequences(held_out_texts(), tokenizer, CALIBRATED_TOKENS, size)
    if not calibrated:
        windows = windows[:: max(1, len(windows) // N_WINDOWS)][:N_WINDOWS]
    some = windows[::_COMPARED] if usual is not None else []
    others = iter(()) if usual is None else usual(some)
    every = zip(windows, before.each_logits(windows), after(windows), strict=True)
    for number, (ids, expected, made) in enumerate(every):
        found.add(expected, made, ids)
        if usual is not None and number % _COMPARED == 0:
            same.add(expected, made, ids)
            plain.add(expected, next(others), ids)
    plain_kld = 0.0 if usual is None else plain.kld * (found.kld / same.kld if same.kld > 0 else 1.0)
    return Quality(
        n_tokens=found.n_tokens,
        top1=found.top1,
        kld=found.kld,
        kld_error=found.kld_error,
        kld_p99=found.kld_p99,
        perplexity=float(np.exp(found.losses[1])),
        source_perplexity=float(np.exp(found.losses[0])),
        cosine=0.0,
        worst_tensor=worst,
        worst_error=worst_error,
        plain_kld=plain_kld,
    )


def _worst(plan: FilePlan) -> tuple[str, float]:
    """The tensor of the largest error, and that error."""
    worst = max(plan.errors, key=lambda name: plan.errors[name], default="")
    return worst, plan.errors.get(worst, 0.0)


class Divergence:
    """Comparison of two models' logits over one window of tokens after another."""

    def __init__(self) -> None:
        self._same = 0
        self._windows: list[NDArray[np.float64]] = []
        self._losses = np.zeros(2)
        self._n_scored = 0

    def add(self, before: Floats, after: Floats, ids: Sequence[int]) -> None:
        """Take in the logits (n, n_vocab) of both for a window; ModelError for such that are not finite."""
        if not np.isfinite(after).all():
            raise ModelError("the written file gives logits that are not finite; the checkpoint is damaged")
        found = np.empty(len(ids))
        for start in range(0, len(ids), _ROWS):
            rows = [_centered(logits[start : start + _ROWS]) for logits in (before, after)]
            powers = [np.exp(each) for each in rows]
            logs = [np.log(each.sum(axis=1)) for each in powers]
            self._same += int((rows[0].argmax(axis=1) == rows[1].argmax(axis=1)).sum())
            mean = (powers[0] * (rows[0] - rows[1])).sum(axis=1) / powers[0].sum(axis=1)
            found[start : start + _ROWS] = np.maximum(mean - logs[0] + logs[1], 0)
            following = np.asarray(ids[start + 1 : start + 1 + _ROWS], np.int64)
            n = np.arange(len(following))
            self._losses -= [(x[n, following] - log[n]).sum() for x, log in zip(rows, logs, strict=True)]
        self._windows.append(found)
        self._n_scored += len(ids) - 1

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self._windows))

    @property
    def top1(self) -> float:
        """Share of positions where both choose the same token."""
        return self._same / self.n_tokens

    @property
    def positions(self) -> NDArray[np.float64]:
        """Divergence of each position, in nats."""
        return np.concatenate(self._windows)

    @property
    def kld(self) -> float:
        """Mean divergence of a position, in nats."""
        return float(self.positions.mean())

    @property
    def kld_error(self) -> float:
        """Standard error of the mean."""
        return standard_error(self._windows)

    @property
    def kld_p99(self) -> float:
        """Divergence that 99 % of positions stay below."""
        return float(np.quantile(self.positions, 0.99))

    @property
    def losses(self) -> tuple[float, float]:
        """Mean losses of the following tokens, before and after."""
        before, after = self._losses / max(1, self._n_scored)
        return float(before), float(after)


def standard_error(windows: Sequence[NDArray[np.float64]]) -> float:
    """Standard error of the mean of all values of some texts.

    Neighbours are alike, so means of runs of RUN values count, where there are some.
    """
    parts = (np.array_split(window, max(1, len(window) // RUN)) for window in windows if len(window))
    runs = np.array([run.mean() for split in parts for run in split])
    values = runs if len(runs) >= _RUNS else np.concatenate(windows)
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def _centered(logits: Floats) -> NDArray[np.float64]:
    """Logits of which each row's largest is 0."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return wide


def _compare_embeddings(
    before: Interpreter, after: Interpreter, tokenizer: Tokenizer, worst: str, worst_error: float
) -> Quality:
    n_tokens, least = 0, 1.0
    for line in sample_lines()[:4]:
        ids = tokenizer.encode(line)[:WINDOW]
        n_tokens += len(ids)
        a, b = (model.hidden(ids).mean(axis=0, dtype=np.float64) for model in (before, after))
        least = min(least, float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
    return Quality(n_tokens, 0.0, 0.0, 0.0, 0.0, least, worst, worst_error)
