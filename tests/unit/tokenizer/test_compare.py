"""Comparison of two vocabularies."""

from __future__ import annotations

from typing import Any

import pytest

from edgellm.tokenizer.compare import difference
from tests.support.vocabularies import small_bpe, small_spm


def changed(**changes: object) -> Any:
    return small_bpe(**{f"tokenizer.ggml.{name}": value for name, value in changes.items()})


def test_the_same_vocabulary_has_no_difference() -> None:
    ours: Any = small_bpe()
    assert difference(ours, ours) is None


def test_unused_tokens_at_the_end_do_not_count() -> None:
    ours: Any = small_bpe()
    tokens, types = ours["tokenizer.ggml.tokens"], ours["tokenizer.ggml.token_type"]
    padded = changed(tokens=[*tokens, "[PAD258]", "[PAD259]"], token_type=[*types, 5, 5])
    assert difference(ours, padded) is None
    assert difference(padded, ours) is None
    longer = changed(tokens=[*tokens, "more"], token_type=[*types, 1])
    assert difference(ours, longer) == "it has 259 tokens and the model 258"
    assert difference(longer, ours) == "it has 258 tokens and the model 259"


@pytest.mark.parametrize("place", [0, 100, 257])
def test_the_first_token_that_differs_is_named(place: int) -> None:
    ours: Any = small_bpe()
    tokens = list(ours["tokenizer.ggml.tokens"])
    was, tokens[place] = tokens[place], "other"
    found = difference(ours, changed(tokens=tokens, merges=[]))
    assert found == f"its token {place} is 'other' and the model's {was!r}"


def test_another_kind_of_tokenizer_is_named() -> None:
    ours: Any = small_bpe()
    theirs: Any = small_spm()
    assert difference(ours, theirs) == "its tokenizer is of the kind 'llama' and the model's 'gpt2'"
