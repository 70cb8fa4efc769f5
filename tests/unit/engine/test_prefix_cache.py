"""Common prefix of two texts; test_scheduler.py tests the cache itself."""

from __future__ import annotations

from array import array
from itertools import takewhile

from hypothesis import given
from hypothesis import strategies as st

from edgellm.engine.prefix_cache import common_prefix

TOKENS = st.lists(st.integers(0, 2), max_size=70)


@given(TOKENS, TOKENS, TOKENS)
def test_the_common_prefix_is_counted_token_by_token(same: list[int], a: list[int], b: list[int]) -> None:
    one, other = array("i", same + a), array("i", same + b)
    expected = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    assert common_prefix(one, other) == common_prefix(other, one) == expected
