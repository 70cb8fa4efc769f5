"""Byte-pair encoding: `tokenizer.ggml.model` gpt2 and gemma4."""

from __future__ import annotations

from collections.abc import Mapping

from edgellm.errors import FormatError, ModelError, UnsupportedError
from edgellm.tokenizer.alphabet import BYTE_TO_CHAR, SPACE
from edgellm.tokenizer.merge import PieceCache, merge_pairs
from edgellm.tokenizer.pre_names import PRE_TOKENIZERS, PreTokenizerSpec
from edgellm.tokenizer.pretokenize import PreTokenizer
from edgellm.tokenizer.table import Value, string_table, strings
from edgellm.tokenizer.vocabulary import MAX_MERGES, Vocabulary, flag, text_value

MAX_PRE_REGEXES = 32
MAX_PRE_REGEX_CHARS = 8_192
MAX_KNOWN_PAIRS = 16_384
MAX_KNOWN_CHARS = 512


def pre_tokenizer_spec(metadata: Mapping[str, Value], vocabulary: Vocabulary) -> PreTokenizerSpec:
    """The file's rules for cutting text; UnsupportedError for an unknown name."""
    name = text_value(metadata, "tokenizer.ggml.pre", "")
    if vocabulary.model == "gemma4":
        name = "gemma4"
    if "edgellm.tokenizer.pre_regexes" in metadata:
        rules = strings(metadata, "edgellm.tokenizer.pre_regexes", MAX_PRE_REGEXES)
        for rule in rules:
            if not rule or len(rule) > MAX_PRE_REGEX_CHARS:
                raise FormatError(
                    f"edgellm.tokenizer.pre_regexes holds an expression of {len(rule)} characters, expected "
                    f"1 to {MAX_PRE_REGEX_CHARS}: convert the model anew"
                )
        return PreTokenizerSpec(
            tuple(rules),
            ignore_merges=flag(metadata, "edgellm.tokenizer.ignore_merges", False),
            byte_level=flag(metadata, "edgellm.tokenizer.byte_level", True),
        )
    if not name:
        vocabulary.warnings.append(
            "tokenizer.ggml.pre is missing: the text is cut by the default rules, which may not be the "
            "model's; convert the model anew"
        )
        name = "default"
    spec = PRE_TOKENIZERS.get(name)
    if spec is None:
        raise UnsupportedError(
            f"tokenizer.ggml.pre is {name[:80]!r}, which is not known; supported are "
            f"{', '.join(sorted(PRE_TOKENIZERS))}: convert the model with edgellm, "
            "which stores the expressions themselves"
        )
    return spec


class BpeEncoder:
    """Encodes plain text (no special tokens) by merging the pairs that the file ranks."""

    def __init__(self, metadata: Mapping[str, Value], vocabulary: Vocabulary, spec: PreTokenizerSpec) -> None:
        self._merges = string_table(metadata, "tokenizer.ggml.merges", MAX_MERGES)
        self._vocabulary = vocabulary
        self._spec = spec
        self._pre_tokenizer = PreTokenizer(spec.rules, from_file="edgellm.tokenizer.pre_regexes" in metadata)
        self._pieces = PieceCache(self._encode_piece)
        self._ranks: dict[tuple[str, str], int | None] = {}

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; raises ModelError where the merges and the vocabulary contradict each other."""
        if not self._spec.byte_level:
            text = text.replace(" ", SPACE)
        return self._pieces.encode(self._pre_tokenizer.split(text))

    def check(self) -> None:
        """Look at every merge; raises ModelError for one whose parts or result are not tokens."""
        find = self._vocabulary.tokens.find
        for merge in map(self._merges.text, range(len(self._merges))):
            left, _, right = merge.partition(" ")
            if min(find(left), find(right), find(left + right)) < 0:
                raise ModelError(
                    f"tokenizer.ggml.merges holds {merge[:80]!r}, whose parts and result are not all in "
                    "tokenizer.ggml.tokens: convert the model anew"
                )

    def _priority(self, left: str, right: str) -> int | None:
        known = self._ranks
        pair = (left, right)
        if pair in known:
            return known[pair]
        found = self._merges.find(f"{left} {right}")
        rank = None if found < 0 else found
        # A text of few characters asks for the same pairs again and again.
        if len(left) + len(right) <= MAX_KNOWN_CHARS:
            if len(known) >= MAX_KNOWN_PAIRS:
                known.clear()
            known[pair] = rank
        return rank

    def _encode_piece(self, piece: str) -> list[int]:
        plain_id = self._vocabulary.plain_id
        if self._spec.byte_level:
            word = piece.encode().decode("latin-1").translate(BYTE_TO_CHAR)
        else:
            word = piece
        # Gemma's runs of newlines are tokens that no merges lead to.
        if self._spec.ignore_merges or not word.strip("\n"):
            whole = plain_id(word)
            if whole >= 0:
                return [whole]
        ids: list[int] = []
        for symbol in merge_pairs(list(word), self._priority):
            token = plain_id(symbol)
            if token >= 0:
                ids.append(token)
            elif len(symbol) > 1:
                raise ModelError(
                    f"tokenizer.ggml.merges makes {symbol[:80]!r}, which is not in tokenizer.ggml.tokens: "
                    "convert the model anew"
                )
            elif self._spec.byte_level:
                # A byte the vocabulary does not have (some lack bytes that valid UTF-8 seldom holds)
                # has no id: it is left out, as in `tokenizers` and llama.cpp.
                continue
            else:
                ids += self._vocabulary.byte_fallback(symbol)
        return ids
