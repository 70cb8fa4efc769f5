"""Lengths of time in requests and on the command line."""

from __future__ import annotations

import math

import pytest

from edgellm.server.durations import duration


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("300ms", 0.3),
        ("2us", 2e-6),
        ("0", 0),
        ("0s", 0),
        (0, 0),
        (90, 90),
        ("90", 90),
        (0.5, 0.5),
        (-1, math.inf),
        ("-1", math.inf),
        ("-5m", math.inf),
        (float("inf"), 1e18),
        (10**400, 1e18),
    ],
)
def test_lengths_of_time(given: object, seconds: float) -> None:
    assert duration(given) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "given", ["", "m", "5 m", "5x", "5m3", "--5m", "1e3", "٣s", "5m" * 100, True, None, [], {}, float("nan")]
)
def test_what_is_no_length_of_time(given: object) -> None:
    with pytest.raises(ValueError, match="such as 5m"):
        duration(given)
