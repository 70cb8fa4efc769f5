"""Keywords of `Model.generate` and `Model.chat`, for type checkers: the fields of GenerateOptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class OptionChanges(TypedDict, total=False):
    """Options of one generation as keywords; GenerateOptions explains them."""

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repeat_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    penalty_last_n: int | None
    seed: int | None
    stop: str | Sequence[str]
    logit_bias: Mapping[int, float]
    logprobs: int | None
    ignore_eos: bool
    schema: Mapping[str, Any] | str | None
    regex: str | None
    grammar: str | None
    json: bool
    lora: Mapping[str | int, float] | None
    think_budget: int | None
