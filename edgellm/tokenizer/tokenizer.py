"""Text to token ids and back, for the vocabulary of one model."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from edgellm.errors import UnsupportedError
from edgellm.tokenizer.alphabet import CHAR_TO_BYTE, SPACE
from edgellm.tokenizer.specials import SpecialMatcher
from edgellm.tokenizer.stream import StreamDecoder
from edgellm.tokenizer.table import Value, integers, strings
from edgellm.tokenizer.vocabulary import (
    BYTE,
    CONTROL,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    flag,
    read_vocabulary,
    text_value,
)

# Byte-level characters to the Latin-1 characters of their bytes; characters that stand for no byte have none.
_LATIN = {
    **{code: 0xFFFF for code in range(256) if chr(code) not in CHAR_TO_BYTE},
    **{ord(char): byte for char, byte in CHAR_TO_BYTE.items()},
}
_NORMAL_FORMS = ("NFC", "NFD", "NFKC", "NFKD")
_SCHEME_KEY = "edgellm.tokenizer.prepend_scheme"
_SCHEMES = ("", "always", "first")
_ADD_SEP_KEY = "tokenizer.ggml.add_sep_token"
_BEFORE_KEY = "edgellm.tokenizer.before_ids"
_AFTER_KEY = "edgellm.tokenizer.after_ids"

if TYPE_CHECKING:
    from edgellm.tokenizer.pipeline import PipelineEncoder
    from edgellm.tokenizer.pre_names import PreTokenizerSpec

    class _Encoder(Protocol):
        def encode(self, text: str) -> list[int]: ...


class Tokenizer:
    """Encodes and decodes text; made by `from_metadata`.

    warnings: sentences about values that are missing or ignored.
    """

    def __init__(self, metadata: Mapping[str, Value], vocabulary: Vocabulary) -> None:
        model = vocabulary.model
        self._vocabulary = vocabulary
        self._byte_level = False
        self._suffix = ""
        add_bos, add_eos, space_prefix = False, False, False
        self._rules: PreTokenizerSpec | None = None
        self._encoder: _Encoder
        self._pipeline: PipelineEncoder | None = None
        self._slow_checks: list[Callable[[], None]] = []
        # Only the model's own encoder is imported: together they would add 5 ms to every start.
        if "edgellm.tokenizer.pipeline" in metadata:
            from edgellm.tokenizer.pipeline import PipelineEncoder

            self._encoder = self._pipeline = PipelineEncoder(metadata, vocabulary)
            self._byte_level, self._suffix = self._pipeline.byte_level, self._pipeline.suffix
        elif model in ("gpt2", "gemma4"):
            from edgellm.tokenizer.bpe import BpeEncoder, pre_tokenizer_spec

            spec = pre_tokenizer_spec(metadata, vocabulary)
            encoder = BpeEncoder(metadata, vocabulary, spec)
            self._encoder, self._rules = encoder, spec
            self._slow_checks.append(encoder.check)
            self._byte_level = spec.byte_level
            add_bos = spec.add_bos
        elif model == "llama":
            from edgellm.tokenizer.spm import SpmEncoder

            self._encoder = SpmEncoder(vocabulary)
            add_bos, space_prefix = True, True
        elif model == "bert":
            from edgellm.tokenizer.library import WordPieceEncoder

            self._encoder = WordPieceEncoder(metadata, vocabulary)
            add_bos = True
        else:
            from edgellm.tokenizer.library import UnigramEncoder

            self._encoder = UnigramEncoder(metadata, vocabulary)
            add_eos = True
        self._prefix = self._prefix_of(metadata, space_prefix)
        self._strip_prefix = bool(self._prefix) or model in ("bert", "t5")
        self._before, self._after = self._ends(metadata, add_bos, add_eos)
        # Between two texts, after the end of the first.
        self._between = self._named("sep") if flag(metadata, _ADD_SEP_KEY, False) else []
        self._normal_form = _normalizer(metadata)
        self._matcher = SpecialMatcher(vocabulary)
        self.warnings: tuple[str, ...] = tuple(vocabulary.warnings)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Value]) -> Tokenizer:
        """The tokenizer that a GGUF file's metadata describes.

        Raises FormatError for inconsistent metadata, UnsupportedError for a tokenizer or pre-tokenizer
        that is not known.
        """
        return cls(metadata, read_vocabulary(metadata))

    @property
    def n_vocab(self) -> int:
        """The number of tokens."""
        return len(self._vocabulary.tokens)

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text, if the model has one."""
        return self._vocabulary.special_ids.get("bos")

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text, if the model has one."""
        return self._vocabulary.special_ids.get("eos")

    @property
    def eog_ids(self) -> frozenset[int]:
        """All tokens that end a generation: end of text, of turn, of message."""
        return self._vocabulary.eog_ids

    @property
    def adds_bos(self) -> bool:
        """True if `encode(..., add_special=True)` begins with the bos token."""
        return bool(self._before) and self._before[0] == self.bos_id

    @property
    def surroundings(self) -> tuple[list[int], list[int]]:
        """The tokens that `encode(..., add_special=True)` puts before and after a text."""
        return list(self._before), list(self._after)

    @property
    def control_texts(self) -> frozenset[str]:
        """The texts of control and unknown tokens, which untrusted text must never become."""
        vocabulary = self._vocabulary
        return frozenset(text for text, token in vocabulary.specials.items() if vocabulary.is_control(token))

    @property
    def marker_texts(self) -> frozenset[str]:
        """The texts of user-defined tokens that look like a part of a chat template, such as `<think>`."""
        return frozenset(map(self.token_text, self._vocabulary.markers))

    def is_special(self, token: int) -> bool:
        """True for control and unknown tokens: never made from plain text, not shown by `decode`."""
        return self._vocabulary.is_control(self._checked(token))

    def token_text(self, token: int) -> str:
        """The token as the vocabulary writes it."""
        return self._vocabulary.tokens.text(self._checked(token))

    def token_id(self, text: str) -> int | None:
        """The id of the token that the vocabulary writes so, or None."""
        found = self._vocabulary.tokens.find(text) if text else -1
        return None if found < 0 else found

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """The ids of `text`.

        `add_special` adds what the model wants before and after a text. `parse_special` makes control
        tokens of their texts; without it they are text like any other. Raises ModelError if the
        vocabulary cannot express the text.
        """
        text = _clean(text)
        trusted = bytes([parse_special]) * len(text)
        return self._encode(text, trusted, add_special=add_special, strict=False)

    def encode_pair(self, first: str, second: str, limit: int | None = None) -> list[int]:
        """The ids of two texts as one, with the special tokens of a pair around and between them.

        limit: most ids; the second text loses its end where there would be more.
        """
        head = [*self._before, *self.encode(first, add_special=False), *self._after, *self._between]
        tail = self.encode(second, add_special=False)
        if limit is not None:
            del tail[max(0, limit - len(head) - len(self._after)) :]
        return [*head, *tail, *self._after]

    def encode_segments(
        self, segments: Iterable[tuple[str, bool]], *, add_special: bool = False
    ) -> list[int]:
        """The ids of a text made of (text, parse_special) parts, a chat prompt for instance.

        The same as encoding the joined text, except that no special token, and no user-defined token
        that looks like a part of a chat template, is made from characters of a part whose flag is false,
        nor across its borders.
        """
        texts: list[str] = []
        trusted = bytearray()
        for part, parse_special in segments:
            part = _clean(part)
            texts.append(part)
            trusted += bytes([parse_special]) * len(part)
        return self._encode("".join(texts), trusted, add_special=add_special, strict=True)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of `ids`; invalid UTF-8 becomes U+FFFD, special tokens are left out or written out.

        The space that the model's tokenizer puts before a text is taken away again.
        """
        shown = [token for token in ids if not (skip_special and self.is_special(token))]
        data = b"".join(map(self.token_bytes, shown))
        if self._strip_prefix and data.startswith(b" ") and not self.is_special(shown[0]):
            data = data[1:]
        return data.decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes that a token adds to a text; the text itself of a special token."""
        text = self.token_text(token)
        kind = self._vocabulary.types[token]
        if kind == BYTE:
            return bytes([int(text[3:5], 16)])
        if kind in (CONTROL, UNKNOWN, USER_DEFINED):
            return text.encode("utf-8", "surrogateescape")
        if self._suffix and text.endswith(self._suffix):
            text = text.removesuffix(self._suffix) + " "
        if self._byte_level:
            # Vocabularies that list added tokens as normal ones have characters outside the byte alphabet.
            return b"".join(
                bytes([CHAR_TO_BYTE[char]])
                if char in CHAR_TO_BYTE
                else char.encode("utf-8", "surrogateescape")
                for char in text
            )
        return text.replace(SPACE, " ").encode("utf-8", "surrogateescape")

    def all_token_bytes(self) -> list[bytes]:
        """`token_bytes` of every token, faster than one by one."""
        vocabulary = self._vocabulary
        space = SPACE.encode()
        result = []
        for token, kind in enumerate(vocabulary.types):
            raw = vocabulary.tokens.raw(token)
            if kind in (BYTE, CONTROL, UNKNOWN, USER_DEFINED) or self._suffix:
                raw = self.token_bytes(token)
            elif not self._byte_level:
                raw = raw.replace(space, b" ")
            else:
                try:
                    raw = raw.decode().translate(_LATIN).encode("latin-1")
                except UnicodeError:
                    raw = self.token_bytes(token)
            result.append(raw)
        return result

    def stream(self, *, skip_special: bool = True, shown: frozenset[int] = frozenset()) -> StreamDecoder:
        """A decoder for ids that arrive one by one, the continuation of some text.

        `shown`: special tokens whose texts are part of it all the same.
        """

        def shown_bytes(token: int) -> bytes:
            hidden = skip_special and token not in shown and self.is_special(token)
            return b"" if hidden else self.token_bytes(token)

        return StreamDecoder(shown_bytes)

    def check(self) -> None:
        """Check what takes too long for every start; raises ModelError if it is wrong."""
        for check in self._slow_checks:
            check()

    def portable(self) -> dict[str, object]:
        """Settings of the native tokenizer beside the vocabulary, by the names in native/api/embedded.cc.

        Raises UnsupportedError for a tokenizer that the native part has no code for.
        """
        vocabulary = self._vocabulary
        if self._pipeline is not None or vocabulary.model not in ("gpt2", "gemma4", "llama"):
            raise UnsupportedError(
                f"its tokenizer ({vocabulary.model}) needs the `tokenizers` library, which only Python has"
            )
        if self._normal_form:
            raise UnsupportedError(
                f"its tokenizer normalizes text ({self._normal_form}), which only Python does"
            )
        described: dict[str, object] = {
            "tokenizer": "spm" if self._rules is None else "bpe",
            "control_ids": [token for token in range(self.n_vocab) if vocabulary.types[token] == CONTROL],
            "marker_ids": sorted(vocabulary.markers),
            "lstrip_ids": sorted(vocabulary.lstrip_ids),
            "rstrip_ids": sorted(vocabulary.rstrip_ids),
            "single_word_ids": sorted(vocabulary.single_word_ids),
            "before_ids": self._before,
            "after_ids": self._after,
            "end_ids": sorted(self.eog_ids),
            "unknown_id": vocabulary.special_ids.get("unk", -1),
            "begin_id": self.bos_id if self.adds_bos and self.bos_id is not None else -1,
            "space_prefix": self._prefix or "none",
        }
        if self._rules is not None:
            from edgellm.tokenizer.bpe import native_rules

            rules = native_rules(self._rules.rules)
            described |= {
                "rules": [expression for expression, _ in rules],
                "rule_categories": [category for _, category in rules],
                "ignore_merges": self._rules.ignore_merges,
                "byte_level": self._rules.byte_level,
            }
        return described

    def _encode(self, text: str, trusted: bytes | bytearray, *, add_special: bool, strict: bool) -> list[int]:
        ids = list(self._before) if add_special else []
        first = True
        for part in self._matcher.split(text, trusted, strict=strict):
            if isinstance(part, int):
                ids.append(part)
                first = False
                continue
            if self._normal_form:
                part = unicodedata.normalize(self._normal_form, part)  # type: ignore[arg-type]  # checked at load
            if self._pipeline is not None:
                ids += self._pipeline.encode(part, first=first)
            else:
                ids += self._encoder.encode(self._prefixed(part, first))
            first = False
        if add_special:
            ids += self._after
        return ids

    def _prefix_of(self, metadata: Mapping[str, Value], default: bool) -> str:
        """Rule of the space before a part of plain text: a scheme of Metaspace, GGUF's "every", or ""."""
        if self._pipeline is not None:
            return ""
        scheme = text_value(metadata, _SCHEME_KEY, "")
        if scheme not in _SCHEMES:
            raise UnsupportedError(
                f"{_SCHEME_KEY} is {scheme[:80]!r}, supported are always and first: convert the model anew"
            )
        # Unigram adds its space itself, after normalizing.
        return scheme or (
            "every" if default and flag(metadata, "tokenizer.ggml.add_space_prefix", True) else ""
        )

    def _prefixed(self, text: str, first: bool) -> str:
        """A part of plain text with the space before it; first: the text begins with it."""
        if self._prefix == "every":
            return " " + text
        spaced = text.startswith(" ") or (not self._byte_level and text.startswith(SPACE))
        if spaced or not (self._prefix == "always" or (self._prefix == "first" and first)):
            return text
        return " " + text

    def _ends(
        self, metadata: Mapping[str, Value], add_bos: bool, add_eos: bool
    ) -> tuple[list[int], list[int]]:
        """The tokens before and after a text: those that the file lists, or bos and eos by its flags."""
        model, n_vocab = self._vocabulary.model, self.n_vocab
        before: list[int] = []
        after: list[int] = []
        if flag(metadata, "tokenizer.ggml.add_bos_token", add_bos) or model == "gemma4":
            before = self._named("bos")
        if model == "bert":
            after = self._named("sep")
        elif flag(metadata, "tokenizer.ggml.add_eos_token", add_eos):
            after = self._named("eos")
        if _BEFORE_KEY in metadata:
            before = integers(metadata, _BEFORE_KEY, 0, n_vocab - 1).tolist()
        if _AFTER_KEY in metadata:
            after = integers(metadata, _AFTER_KEY, 0, n_vocab - 1).tolist()
        return before, after

    def _named(self, name: str) -> list[int]:
        """The special token of a name, to be added to texts; none, and a warning, where the file has none."""
        token = self._vocabulary.special_ids.get(name)
        if token is None:
            self._vocabulary.warnings.append(
                f"texts should get the {name} token, but the file does not say which it is: none is added"
            )
        return [] if token is None else [token]

    def _checked(self, token: int) -> int:
        if not 0 <= token < len(self._vocabulary.tokens):
            raise IndexError(
                f"token id {token} is outside the vocabulary of {len(self._vocabulary.tokens)} tokens"
            )
        return token


def _clean(text: str) -> str:
    """Lone surrogates, which JSON can carry and UTF-8 cannot, become U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", "\ufffd", text)
    return text


def _normalizer(metadata: Mapping[str, Value]) -> str:
    key = "edgellm.tokenizer.normalizer"
    if key not in metadata:
        return ""
    names = strings(metadata, key, 1)
    for name in names:
        if name not in _NORMAL_FORMS:
            raise UnsupportedError(
                f"{key} is {name[:80]!r}, supported are {', '.join(_NORMAL_FORMS)}: convert the model anew"
            )
    return names[0] if names else ""
