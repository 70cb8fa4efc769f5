"""Refusals: immediate for a client that errs, one after another for a client that does nothing else."""

from __future__ import annotations

from itertools import accumulate, repeat

import pytest

from edgellm.server.pacing import BURST, MOST_ADDRESSES, MOST_S, Pacing, WrongKeys


def test_a_few_are_refused_at_once() -> None:
    pacing = Pacing(per_s=8.0)
    assert [pacing.delay("a", 100.0) for _ in range(BURST)] == [0.0] * BURST


def test_more_take_their_turns() -> None:
    pacing = Pacing(per_s=8.0)
    delays = [pacing.delay("a", 100.0) for _ in range(BURST + 4)]
    assert delays[BURST:] == pytest.approx([1 / 8, 2 / 8, 3 / 8, 4 / 8])


def test_nobody_waits_longer_than_the_most() -> None:
    pacing = Pacing(per_s=8.0)
    assert max(pacing.delay("a", 100.0) for _ in range(200)) == pytest.approx(MOST_S)


def test_who_keeps_to_the_pace_never_waits() -> None:
    pacing = Pacing(per_s=8.0)
    assert {pacing.delay("a", now) for now in accumulate(repeat(1 / 8, 100))} == {0.0}


def test_a_pause_is_credited() -> None:
    pacing = Pacing(per_s=8.0)
    for _ in range(100):
        pacing.delay("a", 100.0)
    assert pacing.delay("a", 100.0 + MOST_S + BURST / 8) == 0.0


def test_addresses_do_not_wait_for_each_other() -> None:
    pacing = Pacing(per_s=8.0)
    for _ in range(100):
        pacing.delay("a", 100.0)
    assert pacing.delay("b", 100.0) == 0.0


def test_what_is_remembered_is_bounded() -> None:
    pacing = Pacing(per_s=8.0)
    for _ in range(100):
        pacing.delay("first", 100.0)
    for number in range(MOST_ADDRESSES):
        pacing.delay(str(number), 100.0)
    assert pacing.delay("first", 100.0) == 0.0


def test_wrong_keys_beyond_some_are_not_looked_at_for_a_while() -> None:
    wrong = WrongKeys(burst=3, every_s=4.0)
    for _ in range(3):
        assert wrong.wait_s("a", 100.0) == 0
        wrong.count("a", 100.0)
    assert wrong.wait_s("a", 100.0) == 4
    assert wrong.wait_s("b", 100.0) == 0
    assert wrong.wait_s("a", 103.5) == 1
    assert wrong.wait_s("a", 104.0) == 0  # one more try
    wrong.count("a", 104.0)
    assert wrong.wait_s("a", 104.0) == 4
    assert wrong.wait_s("a", 200.0) == 0


def test_wrong_keys_of_few_addresses_are_remembered() -> None:
    wrong = WrongKeys(burst=1)
    for number in range(MOST_ADDRESSES + 1):
        wrong.count(str(number), 100.0)
    assert [wrong.wait_s(name, 100.0) > 0 for name in ("0", "1")] == [False, True]
