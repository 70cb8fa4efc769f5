"""Options out of range are refused by name; None falls back to the file's values and then to edgellm's."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edgellm.engine.options import BUILTIN_DEFAULTS, GenerateOptions, sampling_defaults
from edgellm.errors import UsageError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.5),
        ("repeat_penalty", 0.0),
        ("presence_penalty", math.inf),
        ("penalty_last_n", -2),
        ("seed", -1),
        ("seed", 2**64),
        ("stop", ("",)),
        ("stop", (5,)),
        ("logit_bias", {-1: 1.0}),
        ("logit_bias", {1: math.nan}),
        ("logit_bias", {1: math.inf}),
        ("logprobs", 101),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        GenerateOptions(**{name: value})


def test_one_stop_text_may_be_given_bare() -> None:
    assert GenerateOptions(stop="END").stop == ("END",)  # type: ignore[arg-type]


def test_what_is_given_beats_the_file_which_beats_the_built_in() -> None:
    file = sampling_defaults({"general.sampling.temp": 0.3, "general.sampling.top_k": 7, "other": 1})
    chosen = GenerateOptions(temperature=0.1).over(file)
    assert (chosen.temperature, chosen.top_k, chosen.top_p) == (0.1, 7, BUILTIN_DEFAULTS["top_p"])


def test_unusable_values_in_a_file_are_refused() -> None:
    with pytest.raises(UsageError, match=r"general\.sampling"):
        sampling_defaults({"general.sampling.temp": -1.0})
