"""Receipt of a conversion: the difference between a written file and its source.

The same text runs through the program of the file twice, with the source's weights and with the written
ones, both in float32, so that the figures say what the formats lost and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgellm.convert.pipeline import FilePlan, Pair, written_error
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
# Tokens of the sample that are read: a few seconds for a model of a billion parameters.
N_TOKENS = 128
_ROWS = 16
_PREFIX = "edgellm.quality."


@dataclass(frozen=True, slots=True)
class Quality:
    """The figures of a receipt.

    top1: share of positions where both choose the same token. kld: mean Kullback-Leibler divergence from the
    source's distribution, in nats. For encoders, which have no logits, cosine: the least cosine similarity
    of the embeddings of the sample's lines; the others are 0. worst_error: the largest relative error of a
    tensor, root of (weighted) square error over square sum.
    """

    n_tokens: int
    top1: float
    kld: float
    perplexity: float
    source_perplexity: float
    cosine: float
    worst_tensor: str
    worst_error: float

    def summary(self) -> str:
        """One line for a person."""
        worst = (
            f"worst tensor {self.worst_tensor} {100 * self.worst_error:.2f} %" if self.worst_tensor else ""
        )
        if self.cosine:
            figures = f"cosine {self.cosine:.6f}"
        else:
            figures = (
                f"top-1 {100 * self.top1:.1f} %, KLD {self.kld:.4f}, "
                f"perplexity {self.perplexity:.3f} (source {self.source_perplexity:.3f})"
            )
        return ", ".join(part for part in (f"{figures} over {self.n_tokens} tokens", worst) if part)


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
    plan.metadata |= quality_pairs(Quality(0, 0, 0, 0, 0, 0, "", 0), longest)
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
    return {
        f"{_PREFIX}tokens": Pair(quality.n_tokens, ValueType.UINT32),
        f"{_PREFIX}top1": Pair(quality.top1, ValueType.FLOAT32),
        f"{_PREFIX}kld": Pair(quality.kld, ValueType.FLOAT32),
        f"{_PREFIX}perplexity": Pair(quality.perplexity, ValueType.FLOAT32),
        f"{_PREFIX}source_perplexity": Pair(quality.source_perplexity, ValueType.FLOAT32),
        f"{_PREFIX}cosine": Pair(quality.cosine, ValueType.FLOAT32),
        f"{_PREFIX}worst_error": Pair(quality.worst_error, ValueType.FLOAT32),
        # Padded: its length must be known before the tensor is.
        f"{_PREFIX}worst_tensor": Pair(quality.worst_tensor.ljust(longest)),
    }


def measure(plan: FilePlan, file: GGUFFile, *, threads: int) -> Quality:
    """Compare the tensors of a written file with those of the plan's source.

    Raises ModelError if the file gives values that are not finite.
    """
    shapes = {name: info.shape for name, info in file.tensors.items()}
    program = build(file.metadata, shapes)
    tokenizer = Tokenizer.from_metadata(file.metadata)
    after = Interpreter(program, file_weights(file, threads))
    for tensor in plan.tensors:
        # Written by an earlier, interrupted attempt.
        if tensor.name not in plan.errors:
            plan.errors[tensor.name] = written_error(tensor, file.data(tensor.name), threads)
    if program.logits is None:
        before = Interpreter(program, source_weights(plan))
        return _compare_embeddings(before, after, tokenizer, *_worst(plan))
    return measure_logits(plan, program, tokenizer, after.logits)


def measure_logits(
    plan: FilePlan, program: Program, tokenizer: Tokenizer, after: Callable[[list[int]], Floats]
) -> Quality:
    """Compare the logits (n_tokens, n_vocab) that `after` gives for the sample with the source's.

    Raises ModelError for logits that are not finite.
    """
    worst, worst_error = _worst(plan)
    limit = min(N_TOKENS, program.n_ctx_train)
    ids = tokenizer.encode("\n".join(sample_lines()))[:limit]
    before = Interpreter(program, source_weights(plan))
    top1, kld, losses = divergence(before.logits(ids), after(ids), ids)
    return Quality(
        n_tokens=len(ids),
        top1=top1,
        kld=kld,
        perplexity=float(np.exp(losses[1])),
        source_perplexity=float(np.exp(losses[0])),
        cosine=0.0,
        worst_tensor=worst,
        worst_error=worst_error,
    )


def _worst(plan: FilePlan) -> tuple[str, float]:
    """The tensor of the largest error, and that error."""
    worst = max(plan.errors, key=lambda name: plan.errors[name], default="")
    return worst, plan.errors.get(worst, 0.0)


def divergence(before: Floats, after: Floats, ids: Sequence[int]) -> tuple[float, float, tuple[float, float]]:
    """Of the logits of two models for `ids`: top-1 agreement, mean divergence, both mean losses.

    Raises ModelError for logits that are not finite.
    """
    if not np.isfinite(after).all():
        raise ModelError("the written file gives logits that are not finite; the checkpoint is damaged")
    same, divergence, losses = 0, 0.0, np.zeros(2)
    for start in range(0, len(ids), _ROWS):
        p, q = (_log_softmax(rows[start : start + _ROWS]) for rows in (before, after))
        same += int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
        divergence += float((np.exp(p) * (p - q)).sum())
        following = np.asarray(ids[start + 1 : start + 1 + _ROWS])
        rows = np.arange(len(following))
        losses -= [p[rows, following].sum(), q[rows, following].sum()]
    losses /= max(1, len(ids) - 1)
    return same / len(ids), max(0.0, divergence / len(ids)), (float(losses[0]), float(losses[1]))


def _log_softmax(logits: Floats) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=1, keepdims=True))
    return wide


def _compare_embeddings(
    before: Interpreter, after: Interpreter, tokenizer: Tokenizer, worst: str, worst_error: float
) -> Quality:
    n_tokens, least = 0, 1.0
    for line in sample_lines()[:4]:
        ids = tokenizer.encode(line)[:N_TOKENS]
        n_tokens += len(ids)
        a, b = (model.hidden(ids).mean(axis=0, dtype=np.float64) for model in (before, after))
        least = min(least, float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b))))
    return Quality(n_tokens, 0.0, 0.0, 0.0, 0.0, least, worst, worst_error)
