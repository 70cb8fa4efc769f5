"""Prompt lookup: drafts from the text's own continuation, and their chances."""

from __future__ import annotations

import itertools
import random

from edgellm.engine.lookup import MEMORY, Lookup, Rate


def test_the_latest_place_that_ends_alike_is_continued() -> None:
    lookup = Lookup(n_prompt=9)
    lookup.extend([5, 1, 2, 3, 4, 1, 2, 8, 9])
    assert lookup.chances(4) == []
    lookup.extend([5, 1, 2, 3, 4, 1, 2, 8, 9, 1, 2])
    assert lookup.draft(4) == [8, 9, 1, 2]


def test_a_match_that_reaches_the_end_goes_round() -> None:
    lookup = Lookup(n_prompt=2)
    lookup.extend([7, 1, 2, 3, 1, 2])
    assert lookup.draft(8) == [3, 1, 2, 3, 1, 2, 3, 1]


def test_growing_by_steps_is_the_same_as_at_once() -> None:
    text = random.Random(3).choices(range(4), k=400)
    steps, whole = Lookup(50), Lookup(50)
    place = 0
    for size in [60, *random.Random(4).choices(range(1, 6), k=200)]:
        place = min(place + size, len(text))
        steps.extend(text[:place])
    whole.extend(text)
    assert steps.chances(8) == whole.chances(8)
    assert steps.draft(8) == whole.draft(8)


def test_chances_fall_along_a_draft_and_rise_with_the_match() -> None:
    lookup = Lookup(n_prompt=200)
    lookup.extend([*range(100), *range(100)])
    chances = lookup.chances(6)
    assert all(0 < later < earlier <= 1 for earlier, later in itertools.pairwise(chances))
    short = Lookup(n_prompt=104)
    short.extend([*range(100), 500, 501, 0, 1])
    assert short.draft(1) == [2]
    assert short.chances(1)[0] < chances[0]


def test_trust_follows_what_came_true() -> None:
    def chance_after(*parts: list[int]) -> float:
        """Chance of the token that followed 0 and 1, in an answer of these parts that ends in them."""
        lookup = Lookup(0)
        lookup.extend([*(token for part in parts for token in part), 0, 1])
        return lookup.chances(1)[0]

    assert chance_after(*[[0, 1, 2, 3]] * 20) > 0.9
    assert chance_after(*[[50 + n, 0, 1, 90 + n] for n in range(20)]) < 0.2


def test_nothing_is_learned_from_the_prompt() -> None:
    text = [n for m in range(30) for n in (0, 1, 100 + m)]
    read, answered = Lookup(len(text) + 2), Lookup(2)
    for lookup in (read, answered):
        lookup.extend([*text, 0, 1])
    assert read.chances(1) > answered.chances(1)


def test_a_short_text_has_no_continuation() -> None:
    lookup = Lookup(n_prompt=1)
    lookup.extend([1])
    lookup.extend([1, 1])
    assert lookup.chances(3) == []
    lookup.extend([1, 1, 1])
    assert lookup.draft(3) == [1, 1, 1]


def test_a_rate_forgets() -> None:
    rate = Rate(0.5)
    assert rate.value == 0.5
    for _ in range(100):
        rate.add(False)
    low = rate.value
    assert low < 0.1
    rate.add(True)
    assert rate.value > low
    for _ in range(round(10 / (1 - MEMORY))):
        rate.fade()
    assert abs(rate.value - 0.5) < 0.01
