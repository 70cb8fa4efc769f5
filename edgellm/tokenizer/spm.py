"""SentencePiece's byte-pair model: `tokenizer.ggml.model` llama."""

from __future__ import annotations

from array import array

from edgellm import _native
from edgellm.errors import FormatError
from edgellm.tokenizer.vocabulary import Vocabulary


class SpmEncoder:
    """Encodes plain text by joining the neighbours that make the token with the best score."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        if not len(vocabulary.scores):
            raise FormatError(
                "tokenizer.ggml.scores is missing, expected one score for each token: convert the model anew"
            )
        self._vocabulary = vocabulary
        scores: memoryview | array[float] = vocabulary.scores
        if vocabulary.scores.format != "f":
            scores = array("f", vocabulary.scores)
        with vocabulary.translated():
            self._native = _native.SpmEncoder(vocabulary.tokens.native, scores, *vocabulary.plain_tokens())

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, spaces being part of it (a prefix space is the caller's)."""
        with self._vocabulary.translated():
            return self._native.encode(text)
