"""Vocabulary of a GGUF file, checked once and kept in the form the encoders use.

Nothing here walks the vocabulary token by token, which for Gemma's 262,144 would be most of the time to
the first token; only the few that are not normal tokens are looked at one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from edgellm import _native
from edgellm.errors import FormatError, ModelError, UnsupportedError, show
from edgellm.tokenizer.table import StringTable, Value, integers, numbers, string_table

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

MAX_TOKEN_BYTES = 16_384
MAX_SPECIAL_BYTES = 512
MAX_TOKENS = 4_000_000
MAX_MERGES = 8_000_000

MODELS = ("gpt2", "gemma4", "llama", "bert", "t5")

# Texts that end a turn or a document in some model family; a token with such a text is a control token
# and ends generation even where the file neither types nor names it so.
_END_TEXTS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>",
    "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
    # fill-in-the-middle: padding and the borders between files and repositories
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]",
    "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>",
)  # fmt: skip

_FIM_TEXTS = (
    "<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>", "<|code_prefix|>",
    "<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>", "<|code_suffix|>",
    "<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>", "<|code_middle|>",
    "<|prefix|>", "<|suffix|>", "<|middle|>",
)  # fmt: skip

# Markup that a person may write; any other user-defined <...> or [...] is a marker of some chat template.
_HTML_TAGS = (
    "a", "b", "bbox", "blockquote", "body", "caption", "code", "div", "em", "footer", "h1", "h2", "h3", "h4",
    "h5", "h6", "html", "i", "iframe", "img", "li", "ol", "p", "pre", "s", "span", "strong", "sub", "sup",
    "table", "tbody", "td", "tfoot", "th", "thead", "tr", "u", "ul",
)  # fmt: skip

_ID_KEYS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "eot": "eot_token_id",
    "eom": "eom_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",  # spelled so in GGUF
    "pad": "padding_token_id",
    "cls": "cls_token_id",
    "mask": "mask_token_id",
}

_DEFAULT_IDS = {
    "llama": {"bos": 1, "eos": 2, "unk": 0},
    "bert": {"bos": 101, "unk": 100, "sep": 102, "pad": 0, "mask": 103},
    "t5": {"eos": 1, "unk": 2, "pad": 0},
}


class Vocabulary:
    """The checked tokenizer metadata of one model.

    `tokens` and `types[id]` describe the tokens. `hidden[id]` is 1 for those that text must not become by
    itself: control, unknown and byte tokens, and markers. `specials` maps the texts that are matched
    whole to their ids. `scores`: (n_tokens,) float64, or empty.
    """

    def __init__(
        self,
        model: str,
        tokens: StringTable,
        types: bytearray,
        scores: memoryview,
        special_ids: dict[str, int],
    ) -> None:
        self.model = model
        self.tokens = tokens
        self.types = types
        self.scores = scores
        self.special_ids = special_ids
        self.hidden = bytearray(len(tokens))
        self.specials: dict[str, int] = {}
        self.markers: set[int] = set()
        self.byte_ids: list[int | None] = [None] * 256
        self.eog_ids: frozenset[int] = frozenset()
        self.lstrip_ids: frozenset[int] = frozenset()
        self.rstrip_ids: frozenset[int] = frozenset()
        self.single_word_ids: frozenset[int] = frozenset()
        self.warnings: list[str] = []

    def is_control(self, token: int) -> bool:
        """True for control and unknown tokens, which plain text never becomes."""
        return self.types[token] in (CONTROL, UNKNOWN)

    def plain_tokens(self) -> tuple[bytes, list[int], int]:
        """The tokens that text may become, for the native encoders: hidden ones, byte tokens, unknown."""
        byte_ids = [-1 if token is None else token for token in self.byte_ids]
        return bytes(self.hidden), byte_ids, self.special_ids.get("unk", -1)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raise the native encoders' errors as the package's own."""
        try:
            yield
        except _native.ModelError as error:
            raise ModelError(str(error)) from None


def read_vocabulary(metadata: Mapping[str, Value]) -> Vocabulary:
    """The vocabulary in `tokenizer.ggml.*` and `edgellm.tokenizer.*`.

    Raises FormatError where the metadata is inconsistent and UnsupportedError for an unknown
    `tokenizer.ggml.model`.
    """
    model = text_value(metadata, "tokenizer.ggml.model")
    if model not in MODELS:
        raise UnsupportedError(
            f"tokenizer.ggml.model is {model[:80]!r}; supported are {', '.join(MODELS)}: convert the model "
            "anew, or use a model with one of these tokenizers"
        )
    tokens = string_table(metadata, "tokenizer.ggml.tokens", MAX_TOKENS)
    if not len(tokens):
        raise FormatError(
            "tokenizer.ggml.tokens is empty, expected the vocabulary: the file is damaged, fetch it again"
        )
    if tokens.longest > MAX_TOKEN_BYTES:
        raise FormatError(
            f"tokenizer.ggml.tokens has a token of {tokens.longest} bytes, at most {MAX_TOKEN_BYTES} are "
            "accepted: the vocabulary is damaged, fetch the file again"
        )
    if (pair := tokens.repeated()) is not None:
        raise FormatError(
            f"tokenizer.ggml.tokens holds {tokens.text(pair[0])[:80]!r} twice, at {pair[0]} and {pair[1]}, "
            "expected different tokens: convert the model anew"
        )
    warnings: list[str] = []
    vocabulary = Vocabulary(
        model,
        tokens,
        _types(metadata, len(tokens)),
        _scores(metadata, len(tokens)),
        _special_ids(metadata, model, len(tokens), warnings),
    )
    vocabulary.warnings += warnings
    _find_specials(vocabulary)
    ends = integers(metadata, "edgellm.tokenizer.eog_ids", 0, len(tokens) - 1)
    vocabulary.eog_ids = _eog_ids(vocabulary) | set(ends.tolist())
    vocabulary.lstrip_ids, vocabulary.rstrip_ids = _strips(metadata, vocabulary)
    whole = integers(metadata, "edgellm.tokenizer.single_word_ids", 0, len(tokens) - 1)
    vocabulary.single_word_ids = frozenset(whole.tolist())
    return vocabulary


def text_value(metadata: Mapping[str, Value], key: str, default: str | None = None) -> str:
    """The string under `key`; FormatError if it is missing (and there is no default) or not a string."""
    value = metadata.get(key, default)
    if value is None:
        raise FormatError(
            f"{key} is missing, expected a string: the file has no tokenizer, convert the model anew"
        )
    if not isinstance(value, str):
        raise FormatError(f"{key} is {show(value)}, expected a string: the file is damaged, fetch it again")
    return value


def flag(metadata: Mapping[str, Value], key: str, default: bool) -> bool:
    """The boolean under `key`, or the default."""
    value = metadata.get(key, default)
    if not isinstance(value, bool) and value not in (0, 1):
        raise FormatError(
            f"{key} is {show(value)}, expected true or false: the file is damaged, fetch it again"
        )
    return bool(value)


def _types(metadata: Mapping[str, Value], n_tokens: int) -> bytearray:
    key = "tokenizer.ggml.token_type"
    if key not in metadata:
        return bytearray(bytes([NORMAL]) * n_tokens)
    types = integers(metadata, key, 0, BYTE, n_tokens)
    return bytearray(types.tobytes()[:: types.itemsize])  # the lowest byte of each, the others being 0


def _scores(metadata: Mapping[str, Value], n_tokens: int) -> memoryview:
    return numbers(metadata, "tokenizer.ggml.scores", n_tokens) or memoryview(b"")


def _special_ids(
    metadata: Mapping[str, Value], model: str, n_tokens: int, warnings: list[str]
) -> dict[str, int]:
    """The ids of special tokens by name; one that is no token's is left to the default, with a warning."""
    found = {name: token for name, token in _DEFAULT_IDS.get(model, {}).items() if token < n_tokens}
    for name, suffix in _ID_KEYS.items():
        key = f"tokenizer.ggml.{suffix}"
        value = metadata.get(key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise FormatError(
                f"{key} is {show(value)}, expected a token id from 0 to {n_tokens - 1}: "
                "convert the model anew"
            )
        if 0 <= value < n_tokens:
            found[name] = value
        else:
            warnings.append(f"{key} is {value}, expected a token id from 0 to {n_tokens - 1}: it is ignored")
    return found


def _find_specials(vocabulary: Vocabulary) -> None:
    """Fill `specials`, `markers`, `byte_ids` and `hidden`; type what ends a generation as control."""
    tokens, types, hidden = vocabulary.tokens, vocabulary.types, vocabulary.hidden
    specials, markers = vocabulary.specials, vocabulary.markers
    # Everything that is not a normal token: few, except for the thousands of <unusedN> of some models.
    for found in re.finditer(rb"[\x02\x03\x04\x06]", types):
        token = found.start()
        kind = types[token]
        raw = tokens.raw(token)
        if not raw:
            continue
        hidden[token] = kind != USER_DEFINED
        if kind == BYTE:
            vocabulary.byte_ids[_byte_of(raw, token)] = token
            continue
        if len(raw) > MAX_SPECIAL_BYTES:
            raise FormatError(
                f"tokenizer.ggml.tokens[{token}] is a special token of {len(raw)} bytes, at most "
                f"{MAX_SPECIAL_BYTES} are accepted: the vocabulary is damaged, fetch the file again"
            )
        text = raw.decode("utf-8", "surrogateescape")
        specials[text] = token
        if kind == USER_DEFINED and _is_marker(text):
            markers.add(token)
    if "</b>" not in specials:  # without the other tags, these two are not strike-through but begin and end
        markers.update(specials[text] for text in ("<s>", "</s>") if text in specials)
    for token in markers:
        hidden[token] = 1
    for text in _END_TEXTS + _FIM_TEXTS:
        token = tokens.find(text)
        if token >= 0 and types[token] not in (CONTROL, UNKNOWN):
            types[token] = CONTROL
            specials[text] = token
            hidden[token] = 1


def _is_marker(text: str) -> bool:
    return (
        len(text) > 2
        and text[0] in "<["
        and text[-1] in ">]"
        and text[1:-1].removeprefix("/") not in _HTML_TAGS
    )


def _byte_of(raw: bytes, token: int) -> int:
    """The byte of a token `<0xXX>`."""
    if not re.fullmatch(b"<0x[0-9A-Fa-f]{2}>", raw):
        raise FormatError(
            f"tokenizer.ggml.tokens[{token}] is typed as a byte but reads {raw[:80]!r}, expected <0x00> to "
            "<0xFF>: convert the model anew"
        )
    return int(raw[3:5], 16)


def _eog_ids(vocabulary: Vocabulary) -> frozenset[int]:
    specials, types = vocabulary.specials, vocabulary.types
    ends = {specials[text] for text in _END_TEXTS if text in specials}
    close = specials.get(
        "</s>"
    )  # also the HTML tag that ends a strike-through: only a control token ends a text
    if close is not None and types[close] == CONTROL:
        ends.add(close)
    # In formats with other ends of turn, <|end|> only ends one message of several.
    if {"<|return|>", "<|call|>"} <= specials.keys() or "<|calls|>" in specials:
        ends.discard(specials.get("<|end|>", -1))
    ends.update(
        vocabulary.special_ids[name] for name in ("eos", "eot", "eom") if name in vocabulary.special_ids
    )
    return frozenset(ends)


def _strips(metadata: Mapping[str, Value], vocabulary: Vocabulary) -> tuple[frozenset[int], frozenset[int]]:
    """The tokens that swallow the white space before and after them.

    GGUF has no field for it. Files converted here list the ids; for others the models known to need it
    are recognised by name.
    """
    n_tokens = len(vocabulary.tokens)
    left = set(integers(metadata, "edgellm.tokenizer.lstrip_ids", 0, n_tokens - 1).tolist())
    right = set(integers(metadata, "edgellm.tokenizer.rstrip_ids", 0, n_tokens - 1).tolist())
    specials = vocabulary.specials
    name = str(metadata.get("general.name", "")).lower()
    pre = str(metadata.get("tokenizer.ggml.pre", ""))
    architecture = str(metadata.get("general.architecture", ""))
    if pre.startswith(("jina-v2-de", "jina-v2-es", "jina-v2-code")) or architecture in (
        "nomic-bert-moe",
        "jina-bert-v3",
    ):
        left.update(specials[text] for text in ("<mask>",) if text in specials)
    elif "phi-3" in name or "phi3" in name:
        plain = {specials.get(text) for text in ("<unk>", "<s>", "<|endoftext|>")}
        right.update(token for token in specials.values() if token not in plain)
    elif "modern-bert" in name:
        left.update(specials[text] for text in ("[MASK]",) if text in specials)
    return frozenset(left), frozenset(right)
