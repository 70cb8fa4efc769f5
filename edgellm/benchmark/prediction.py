"""Predictions: tokens a second of a model that has not run here, from its work and this machine's rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgellm.benchmark.probe import STEP_TOKENS, FormatRate, Rates
from edgellm.benchmark.work import FormatWork, Work, count_work
from edgellm.engine.planning import LoadPlan

PROMPT_TOKENS = 512
ANSWER_TOKENS = 128
# Share by which a measurement may differ from a prediction: of a model whose plan is known
# (docs/benchmarks.md), and of one of which only the size is.
SPREAD = 0.25
SIZE_SPREAD = 0.4


@dataclass(frozen=True, slots=True)
class Prediction:
    """Tokens a second of a prompt of 512 tokens and of an answer of 128, None for what a model does not do.

    spread: share by which a measurement may be lower or higher.
    """

    prompt_tok_s: float | None
    answer_tok_s: float | None
    spread: float

    def span(self, tok_s: float) -> tuple[float, float]:
        """Lowest and highest speed to be expected."""
        return tok_s * (1 - self.spread), tok_s * (1 + self.spread)


def plan_work(planned: LoadPlan) -> Work:
    """Work of a planned model, its matrices by format."""
    tensors = planned.file.tensors
    return count_work(
        planned.program,
        {name: info.n_bytes for name, info in tensors.items()},
        planned.kv_type,
        {name: info.type.name for name, info in tensors.items()},
    )


def formats_of(work: Work) -> list[str]:
    """Formats of a model's matrices, whose rates a prediction needs."""
    return sorted(work.body.keys() | work.head.keys())


def predict(work: Work, rates: Rates, *, generates: bool = True, spread: float = SPREAD) -> Prediction:
    """Predict a model's speed after an empty context."""
    prompt_s = prompt_seconds(work, rates)
    answer = 1 / answer_seconds(work, rates, ANSWER_TOKENS // 2) if generates else None
    return Prediction(PROMPT_TOKENS / prompt_s, answer, spread)


def answer_seconds(work: Work, rates: Rates, depth: int) -> float:
    """Seconds for the next token after `depth` others."""
    matrices = sum(
        part.n_bytes * rates.formats[kind].byte_s
        for matrices in (work.body, work.likeliest_head())
        for kind, part in matrices.items()
    )
    return (
        matrices
        + work.n_ops * rates.op_s
        + work.n_logits * rates.logit_s
        + work.cache_bytes(depth) * rates.cache_byte_s
    )


def prompt_seconds(work: Work, rates: Rates, n_tokens: int = PROMPT_TOKENS) -> float:
    """Seconds for a prompt of `n_tokens`."""
    body = n_tokens * work.prompt_share(n_tokens)
    return (
        _macs_s(work.body, rates.formats) * body
        + _macs_s(work.head, rates.formats)
        + work.attention_macs(n_tokens, 0) * rates.attention_mac_s
        + work.n_values * body * rates.value_s
        + work.n_ops * rates.op_s * -(-n_tokens // STEP_TOKENS)
    )


def _macs_s(parts: Mapping[str, FormatWork], rates: Mapping[str, FormatRate]) -> float:
    return sum(part.macs * rates[kind].mac_s for kind, part in parts.items())


def size_work(parameters: float, active: float, n_bytes: float, kind: str) -> Work:
    """Work of a model of which only the size is known, as models of its size have it.

    parameters, active: weights, and those that a token uses. kind: format of most matrices.
    """
    share = active / parameters
    body = {kind: FormatWork(n_bytes * share, active)}
    n_layers = round(16 + 4 * (active / 1e9))
    layers = ((4096, 4096, 0),) * n_layers
    return Work(
        n_bytes * share,
        active,
        head_bytes=0.0,
        head_macs=0.0,
        layers=layers,
        body=body,
        head={},
        n_ops=15 * n_layers,
        n_values=15 * n_layers * 2048,
        n_logits=128 * 1024,
    )
