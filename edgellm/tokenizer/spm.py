"""SentencePiece's byte-pair model: `tokenizer.ggml.model` llama."""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgellm.errors import FormatError
from edgellm.tokenizer.alphabet import SPACE
from edgellm.tokenizer.merge import PieceCache, merge_pairs
from edgellm.tokenizer.vocabulary import Vocabulary

_LONG = 512


class SpmEncoder:
    """Encodes plain text by joining the neighbours that make the token with the best score.

    Long texts are first cut before spaces wherever no token of the vocabulary spans the cut, which
    changes nothing in the result and lets words be remembered.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        if not len(vocabulary.scores):
            raise FormatError(
                "tokenizer.ggml.scores is missing, expected one score for each token: convert the model anew"
            )
        self._vocabulary = vocabulary
        self._cut: re.Pattern[str] | None = None
        self._pieces = PieceCache(self._encode_piece)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, spaces being part of it (a prefix space is the caller's)."""
        text = text.replace(" ", SPACE)
        if len(text) <= _LONG:
            return self._encode_piece(text)
        if self._cut is None:
            self._cut = _safe_cut(map(self._vocabulary.tokens.text, range(len(self._vocabulary.tokens))))
        return self._pieces.encode(self._cut.split(text))

    def _priority(self, left: str, right: str) -> float | None:
        token = self._vocabulary.plain_id(left + right)
        return None if token < 0 else -self._vocabulary.scores[token]

    def _encode_piece(self, piece: str) -> list[int]:
        plain_id = self._vocabulary.plain_id
        ids: list[int] = []
        for symbol in merge_pairs(list(piece), self._priority):
            token = plain_id(symbol)
            if token < 0:
                ids += self._vocabulary.byte_fallback(symbol)
            else:
                ids.append(token)
        return ids


def _safe_cut(tokens: Iterable[str]) -> re.Pattern[str]:
    """Matches the empty text before a space where no token continues from the character before it."""
    spanning = set(re.findall(f"([^{SPACE}\0]){SPACE}", "\0".join(tokens)))
    kept = "".join(map(re.escape, sorted(spanning)))
    return re.compile(f"(?<=[^{SPACE}{kept}])(?={SPACE})")
