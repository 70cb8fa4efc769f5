"""WordPiece and Unigram, by the `tokenizers` library: `tokenizer.ggml.model` bert and t5.

Embedding models and encoders have these; there 40 ms more at start do not matter.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgellm.errors import FormatError, ModelError
from edgellm.tokenizer.alphabet import SPACE
from edgellm.tokenizer.table import Value, integers
from edgellm.tokenizer.vocabulary import BYTE, UNUSED, Vocabulary, flag

if TYPE_CHECKING:
    from tokenizers import Tokenizer as LibraryTokenizer

_WORD_CHARS = 100  # BERT gives up on longer words
# BERT's words in ASCII: runs of letters and digits, and single signs.
_ASCII_WORDS = re.compile(r"[A-Za-z0-9]+|[!-/:-@\[-`{-~]")
_MAX_KNOWN = 1 << 16
_CHARSMAP = "tokenizer.ggml.precompiled_charsmap"


class WordPieceEncoder:
    """BERT: lower-case and strip accents as the file says, split at spaces and punctuation, longest match.

    GGUF writes a word's first piece with U+2581 before it and the others without `##`.
    Devlin et al. 2019, "BERT".
    """

    def __init__(self, metadata: Mapping[str, Value], vocabulary: Vocabulary) -> None:
        unknown = _unknown(vocabulary)
        lowercase = flag(metadata, "tokenizer.ggml.normalizer.lowercase", True)
        strip_accents = flag(metadata, "tokenizer.ggml.normalizer.strip_accents", lowercase)
        self._library = _word_piece(vocabulary, unknown, lowercase, strip_accents)
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """The ids of `text` without [CLS] and [SEP]."""
        if not (text.isascii() and text.isprintable()):
            return self._encode(text)
        # Words of ASCII are split alike here, and looking them up takes a tenth of the library's time.
        ids: list[int] = []
        for word in _ASCII_WORDS.findall(text):
            found = self._known.get(word)
            if found is None:
                if len(self._known) >= _MAX_KNOWN:
                    self._known.clear()
                found = self._known[word] = self._encode(word)
            ids += found
        return ids

    def _encode(self, text: str) -> list[int]:
        return list(self._library.encode(text, add_special_tokens=False).ids)


class UnigramEncoder:
    """T5 and XLM-R: the most probable segmentation under a unigram model (Kudo 2018)."""

    def __init__(self, metadata: Mapping[str, Value], vocabulary: Vocabulary) -> None:
        unknown = _unknown(vocabulary)
        if not len(vocabulary.scores):
            raise FormatError(
                "tokenizer.ggml.scores is missing, expected one score for each token: convert the model anew"
            )
        self._prefix = flag(metadata, "tokenizer.ggml.add_space_prefix", True)
        self._squeeze = flag(metadata, "tokenizer.ggml.remove_extra_whitespaces", True)
        self._library = _unigram(vocabulary, unknown, _charsmap(metadata))

    def encode(self, text: str) -> list[int]:
        """The ids of `text` without the end token."""
        normalizer = self._library.normalizer
        if normalizer is not None:
            try:
                text = normalizer.normalize_str(text)
            except BaseException as error:
                if not is_panic(error):
                    raise
                raise ModelError(f"{_CHARSMAP} is damaged ({error}): convert the model anew") from error
        if self._squeeze:
            text = " ".join(part for part in text.split(" ") if part)
        if not text:
            return []
        text = text.replace(" ", SPACE)
        if self._prefix and not text.startswith(SPACE):
            text = SPACE + text
        return [token.id for token in self._library.model.tokenize(text)]


def is_panic(error: BaseException) -> bool:
    """True if the `tokenizers` library gave up on its input, which it says without an Exception."""
    return type(error).__name__ == "PanicException"


def _unknown(vocabulary: Vocabulary) -> int:
    unknown = vocabulary.special_ids.get("unk")
    if unknown is None:
        raise FormatError(
            "tokenizer.ggml.unknown_token_id is missing, expected the id of the unknown token: "
            "convert the model anew"
        )
    return unknown


def _word_piece(
    vocabulary: Vocabulary, unknown: int, lowercase: bool, strip_accents: bool
) -> LibraryTokenizer:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    unknown_text = vocabulary.tokens.text(unknown)
    pieces = {
        text[1:] if text.startswith(SPACE) else "##" + text: token
        for token, text in enumerate(map(vocabulary.tokens.text, range(len(vocabulary.tokens))))
        if text and not vocabulary.hidden[token]
    }
    pieces[unknown_text] = unknown
    library = Tokenizer(
        models.WordPiece(pieces, unk_token=unknown_text, max_input_chars_per_word=_WORD_CHARS)
    )
    library.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return library


def _unigram(vocabulary: Vocabulary, unknown: int, charsmap: bytes) -> LibraryTokenizer:
    from tokenizers import Tokenizer, models, normalizers

    library = Tokenizer(models.Unigram(weighted(vocabulary), unknown, False))
    if charsmap:
        try:
            library.normalizer = normalizers.Precompiled(charsmap)
        except Exception as error:
            raise FormatError(f"{_CHARSMAP} cannot be read ({error}): convert the model anew") from error
    return library


def weighted(vocabulary: Vocabulary, byte_fallback: bool = False) -> list[tuple[str, float]]:
    """Unigram's tokens and scores; those that text must not become have texts that cannot occur."""
    shown = [
        (kind == BYTE and byte_fallback) or not (hidden or kind == UNUSED)
        for kind, hidden in zip(vocabulary.types, vocabulary.hidden, strict=True)
    ]
    # The lowest score decides what an unknown character costs: fillers must not lower it.
    lowest = min((score for score, show in zip(vocabulary.scores, shown, strict=True) if show), default=0.0)
    return [
        (vocabulary.tokens.text(token), score) if shown[token] else (f"\0{token}", max(score, lowest))
        for token, score in enumerate(vocabulary.scores)
    ]


def _charsmap(metadata: Mapping[str, Value]) -> bytes:
    data = bytes(byte & 0xFF for byte in integers(metadata, _CHARSMAP, -128, 255).tolist())
    if data and (len(data) < 4 or struct.unpack_from("<I", data)[0] + 4 >= len(data)):
        raise FormatError(f"{_CHARSMAP} is shorter than it says, at {len(data)} bytes: fetch the file again")
    return data
