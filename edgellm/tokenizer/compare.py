"""Comparison of two vocabularies: token ids of one model mean the same to another if they are equal."""

from __future__ import annotations

from collections.abc import Mapping

from edgellm.tokenizer.table import Value
from edgellm.tokenizer.vocabulary import UNUSED, Vocabulary, read_vocabulary


def difference(ours: Mapping[str, Value], theirs: Mapping[str, Value]) -> str | None:
    """The first difference between the vocabularies of two files, as `theirs ... and ours ...`, or None.

    Unused tokens at the end of the longer one do not count: sizes are often rounded up.
    """
    a, b = read_vocabulary(ours), read_vocabulary(theirs)
    if a.model != b.model:
        return f"its tokenizer is of the kind {b.model!r} and the model's {a.model!r}"
    for token in range(min(len(a.tokens), len(b.tokens))):
        if a.tokens.raw(token) != b.tokens.raw(token):
            return f"its token {token} is {_shown(b, token)} and the model's {_shown(a, token)}"
    longer = max(a, b, key=lambda vocabulary: len(vocabulary.tokens))
    for token in range(min(len(a.tokens), len(b.tokens)), len(longer.tokens)):
        if longer.types[token] != UNUSED:
            return f"it has {len(b.tokens)} tokens and the model {len(a.tokens)}"
    return None


def _shown(vocabulary: Vocabulary, token: int) -> str:
    return repr(vocabulary.tokens.text(token)[:40])
