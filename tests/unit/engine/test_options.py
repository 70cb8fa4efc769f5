"""Options out of range are refused by name; None falls back to the file's values and then to edgellm's."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest

from edgellm.engine.options import GenerateOptions, sampling_defaults
from edgellm.engine.sampling_params import DEFAULTS, RANGES, SamplingParams
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
        ("repeat_penalty", 1e-82),
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
    chosen = GenerateOptions(temperature=0.1).resolve(file)
    assert (chosen.temperature, chosen.top_k, chosen.top_p) == (0.1, 7, DEFAULTS["top_p"])


@pytest.mark.parametrize("name", sorted({field.name for field in fields(SamplingParams)} & set(RANGES)))
def test_options_and_resolved_parameters_accept_the_same_values(name: str) -> None:
    limits = RANGES[name]
    step = 1 if limits.integer else 1e-7
    lowest = limits.low + (step if limits.above else 0)
    kinds: tuple[Any, ...] = (GenerateOptions, SamplingParams)
    wrong: tuple[Any, ...] = (lowest - step, limits.high + step, "1", True, math.nan, [1])
    for kind in kinds:
        for value in (lowest, limits.high):
            assert getattr(kind(**{name: value}), name) == value
        for value in wrong:
            with pytest.raises(UsageError, match=f"^{name} is .* (from|above)"):
                kind(**{name: value})


def test_every_default_lies_in_its_range() -> None:
    assert {"temperature", "top_k", "penalty_last_n"} <= set(DEFAULTS) <= set(RANGES)
    for name, value in DEFAULTS.items():
        assert RANGES[name].holds(value), name


def test_unusable_values_in_a_file_are_refused() -> None:
    with pytest.raises(UsageError, match=r"general\.sampling"):
        sampling_defaults({"general.sampling.temp": -1.0})
