"""Sampling parameters: the table of their ranges, and the values that one answer is sampled with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from edgellm.errors import UsageError

MAX_INT32 = 2**31 - 1
MAX_BIAS = 1e30


class Range(NamedTuple):
    """Values that an option accepts: `low` (not itself if `above`) to `high`; `hint` names special ones."""

    low: int | float
    high: int | float
    hint: str = ""
    above: bool = False

    @property
    def integer(self) -> bool:
        """True if only whole numbers are accepted."""
        return isinstance(self.low, int)

    @property
    def expected(self) -> str:
        """The range in words, for error messages."""
        number = "an integer" if self.integer else "a number"
        low, high = (f"{bound}" if self.integer else f"{bound:g}" for bound in (self.low, self.high))
        text = f"{number} above {low}, at most {high}" if self.above else f"{number} from {low} to {high}"
        return f"{text} ({self.hint})" if self.hint else text

    def holds(self, value: object) -> bool:
        """True for a number of the right kind within the range."""
        if isinstance(value, bool) or not isinstance(value, int if self.integer else (int, float)):
            return False
        return self.low <= value <= self.high and not (self.above and value == self.low)


# Every numeric option of a generation: the API, the commands and the server refuse what is outside.
RANGES: dict[str, Range] = {
    "max_tokens": Range(0, MAX_INT32),
    "temperature": Range(0.0, 100.0, "0: greedy"),
    "top_k": Range(0, MAX_INT32, "0: off"),
    "top_p": Range(0.0, 1.0, "1: off", above=True),
    "min_p": Range(0.0, 1.0, "0: off"),
    "repeat_penalty": Range(1e-6, 100.0, "1: off"),  # logits divided by less may overflow
    "presence_penalty": Range(-100.0, 100.0, "0: off"),
    "frequency_penalty": Range(-100.0, 100.0, "0: off"),
    "penalty_last_n": Range(-1, MAX_INT32, "-1: the whole text, 0: off"),
    "seed": Range(0, 2**64 - 1),
    "logprobs": Range(0, 100),
    "think_budget": Range(0, MAX_INT32),
}


def check_range(name: str, value: object) -> None:
    """Raise UsageError if a value lies outside the range of the option `name`."""
    if not RANGES[name].holds(value):
        raise UsageError(f"{name} is {value!r}; expected {RANGES[name].expected}.")


def check_logit_bias(bias: Mapping[int, float]) -> None:
    """Raise UsageError for a key that is no token id, or a value that is neither finite nor -infinity."""
    for token, value in bias.items():
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token <= MAX_INT32:
            raise UsageError(f"logit_bias has the key {token!r}; expected a token id.")
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or math.isnan(value) or value > MAX_BIAS:
            raise UsageError(
                f"logit_bias of token {token} is {value!r}; expected a number up to {MAX_BIAS:g}, or -inf "
                "to forbid the token."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """All values that one answer is sampled with; the defaults hold where neither caller nor file chooses.

    seed: None draws one for each answer. logit_bias: token id -> value added to its logit. logprobs: number
    of likeliest tokens reported beside each sampled one, 0 for its log probability alone, None for neither.
    Raises UsageError for a value out of range.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_last_n: int = 64
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None

    def __post_init__(self) -> None:
        for name in DEFAULTS:
            check_range(name, getattr(self, name))
        for name in ("seed", "logprobs"):
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name))
        check_logit_bias(self.logit_bias)

    @property
    def penalizes(self) -> bool:
        """True if tokens of the text so far change the logits."""
        return (self.repeat_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)


# The parameters that always have a value, with their defaults.
DEFAULTS: dict[str, float | int] = {
    f.name: f.default for f in fields(SamplingParams) if isinstance(f.default, (int, float))
}
