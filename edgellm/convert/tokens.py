"""The vocabulary of a checkpoint: tokens by id, and those added beside the model's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from edgellm.convert.pipeline import Pair
from edgellm.errors import FormatError, ModelError, show
from edgellm.gguf.types import ValueType
from edgellm.tokenizer.vocabulary import CONTROL, UNUSED, USER_DEFINED

_MAX_VOCABULARY = 4_000_000
# The score of a token that no merge may make.
_NEVER = -10_000.0


class Added(NamedTuple):
    """An added token, as tokenizer.json describes it."""

    text: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False

    @property
    def kind(self) -> int:
        """GGUF's token type."""
        return CONTROL if self.special else USER_DEFINED


class Tokens:
    """A vocabulary under construction: texts, types and scores by id."""

    def __init__(self, n_vocab: int) -> None:
        if not 0 < n_vocab <= _MAX_VOCABULARY:
            raise ModelError(f"the vocabulary has {n_vocab} tokens, expected 1 to {_MAX_VOCABULARY}")
        self._texts: list[str | None] = [None] * n_vocab
        self.types = [UNUSED] * n_vocab
        self.scores = [_NEVER] * n_vocab

    def __len__(self) -> int:
        return len(self._texts)

    def put(self, token: int, text: str, kind: int, score: float = 0.0) -> None:
        """Set a token; FormatError if there is no such id."""
        if type(token) is not int or not 0 <= token < len(self._texts):
            raise FormatError(
                f"the tokenizer has a token {show(text)} with id {show(token)}, expected one below "
                f"{len(self._texts)}, the rows of the embedding; download the checkpoint again"
            )
        self._texts[token], self.types[token], self.scores[token] = text, kind, score

    @property
    def texts(self) -> list[str]:
        """The text of each id; an id without a token has a filler that is no token's text."""
        taken = {text for text in self._texts if text is not None}
        return [_filler(token, taken) if text is None else text for token, text in enumerate(self._texts)]

    def pairs(self) -> dict[str, Pair]:
        """Texts and types as metadata."""
        return {
            "tokenizer.ggml.tokens": Pair(self.texts, ValueType.STRING),
            "tokenizer.ggml.token_type": Pair(self.types, ValueType.INT32),
        }


def _filler(token: int, taken: set[str]) -> str:
    text = f"[PAD{token}]"
    while text in taken:
        text = f"{text[:-1]}_]"
    return text


def added_tokens(
    listed: Mapping[str, Any], source: Mapping[str, Any], settings: Mapping[str, Any], n_vocab: int
) -> dict[int, Added]:
    """The added tokens by id: of added_tokens.json, tokenizer_config.json and tokenizer.json, the last wins.

    Ids past the n_vocab rows of the embedding are left out: no text of the model holds them.
    """
    found = {token: Added(text) for text, token in listed.items() if type(token) is int}
    decoder = settings.get("added_tokens_decoder")
    entries: list[tuple[Any, Any]] = list(decoder.items()) if isinstance(decoder, Mapping) else []
    own = source.get("added_tokens")
    if isinstance(own, list):
        entries += [(entry.get("id"), entry) for entry in own if isinstance(entry, Mapping)]
    for key, entry in entries:
        token = _id(key)
        if not isinstance(entry, Mapping) or not isinstance(entry.get("content"), str) or token is None:
            raise FormatError(
                f"the tokenizer's added token {show(key)} is {show(entry)}, expected an id and its content; "
                "download the checkpoint again"
            )
        found[token] = Added(
            entry["content"],
            special=entry.get("special") is True,
            lstrip=entry.get("lstrip") is True,
            rstrip=entry.get("rstrip") is True,
            single_word=entry.get("single_word") is True,
            normalized=entry.get("normalized", not entry.get("special")) is True,
        )
    return {token: entry for token, entry in found.items() if token < n_vocab}


def _id(value: Any) -> int | None:
    if type(value) is int and value >= 0:
        return value
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 10 else None


def matching_ids(added: Mapping[int, Added]) -> dict[str, Pair]:
    """Our own keys: the tokens that swallow white space around them, those that match whole words only."""
    found = {}
    for rule in ("lstrip", "rstrip", "single_word"):
        ids = sorted(token for token, entry in added.items() if getattr(entry, rule))
        if ids:
            found[f"edgellm.tokenizer.{rule}_ids"] = Pair(ids, ValueType.INT32)
    return found
