"""Find the special tokens that are written out in a text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgellm.tokenizer.vocabulary import Vocabulary

_C_SPACES = " \t\n\v\f\r"


class SpecialMatcher:
    """Matches special tokens leftmost first and longest first, as `tokenizers` and `sentencepiece` do.

    User-defined tokens match anywhere. Control and unknown tokens match only in trusted text, and so do
    markers (user-defined tokens that look like part of a chat template) once `strict` is asked for.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        # By its first two characters, so that a single space is not mistaken for the start of many.
        lengths: dict[str, set[int]] = {}
        for text in vocabulary.specials:
            lengths.setdefault(text[:2], set()).add(len(text))
        self._lengths = {start: sorted(sizes, reverse=True) for start, sizes in lengths.items()}
        firsts = "".join(map(re.escape, sorted({start[0] for start in lengths})))
        self._first = re.compile(f"[{firsts}]") if lengths else None

    def split(self, text: str, trusted: bytes | bytearray, *, strict: bool) -> Iterator[str | int]:
        """Cut `text` into plain text (str, not empty) and special tokens (int).

        `trusted` has one byte for each character: non-zero where control tokens may be recognised.
        """
        start = position = 0
        vocabulary = self._vocabulary
        while self._first is not None and (found := self._first.search(text, position)) is not None:
            position = found.start()
            token, end = self._match(text, position, trusted, strict)
            if token < 0:
                position += 1
                continue
            if token in vocabulary.single_word_ids and _inside_a_word(text, position, end):
                position = end
                continue
            plain = text[start:position]
            if token in vocabulary.lstrip_ids:
                plain = plain.rstrip(_C_SPACES)
            if plain:
                yield plain
            yield token
            if token in vocabulary.rstrip_ids:
                while end < len(text) and text[end] in _C_SPACES:
                    end += 1
            start = position = end
        if start < len(text):
            yield text[start:]

    def _match(self, text: str, position: int, trusted: bytes | bytearray, strict: bool) -> tuple[int, int]:
        vocabulary = self._vocabulary
        two = text[position : position + 2]
        for length in (*self._lengths.get(two, ()), 1):
            end = position + length
            token = vocabulary.specials.get(text[position:end], -1)
            if token < 0 or end > len(text):
                continue
            guarded = vocabulary.is_control(token) or (strict and token in vocabulary.markers)
            if not guarded or trusted.find(0, position, end) < 0:
                return token, end
        return -1, position


def _inside_a_word(text: str, start: int, end: int) -> bool:
    """True if a letter, digit or underscore touches text[start:end]."""
    return bool(re.match(r"\w", text[start - 1 : start]) or re.match(r"\w", text[end : end + 1]))
