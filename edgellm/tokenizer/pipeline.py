"""Tokenizers that GGUF has no name for: the normalizer, pre-tokenizer and model of the `tokenizers` library.

`edgellm.tokenizer.pipeline` holds them as JSON, as tokenizer.json does, without vocabulary and merges:
`{"model": {"type": ..., options}, "normalizer": ..., "pre_tokenizer": ...}`, and a `separator` of a merge's
two parts where tokens hold spaces.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgellm.errors import FormatError, ModelError, UnsupportedError, show
from edgellm.tokenizer.alphabet import SPACE
from edgellm.tokenizer.library import is_panic, weighted
from edgellm.tokenizer.table import Value, string_table
from edgellm.tokenizer.vocabulary import BYTE, MAX_MERGES, UNUSED, Vocabulary, text_value

if TYPE_CHECKING:
    from tokenizers import Tokenizer as LibraryTokenizer

KEY = "edgellm.tokenizer.pipeline"
MODELS = ("BPE", "WordPiece", "Unigram")
MAX_JSON_CHARS = 1 << 22
MAX_STEPS = 64
# Bound on how much longer a normalizer may make a text: Replace steps multiply.
MAX_GROWTH = 256
_OPTIONS = {
    "BPE": (
        "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
        "ignore_merges",
    ),
    "WordPiece": ("unk_token", "continuing_subword_prefix", "max_input_chars_per_word"),
    "Unigram": ("byte_fallback",),
}  # fmt: skip


def steps_of(value: Any) -> Iterator[Mapping[str, Any]]:
    """The steps of a normalizer or a pre-tokenizer of tokenizer.json, sequences taken apart."""
    if not isinstance(value, Mapping):
        return
    parts = value.get("normalizers", value.get("pretokenizers")) if value.get("type") == "Sequence" else None
    if isinstance(parts, list):
        for part in parts:
            yield from steps_of(part)
    else:
        yield value


def is_byte_level(description: Mapping[str, Any]) -> bool:
    """True if a step writes bytes in GPT-2's alphabet."""
    both = (description.get("normalizer"), description.get("pre_tokenizer"))
    return any(step.get("type") == "ByteLevel" for value in both for step in steps_of(value))


def describe_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """The type and the options of tokenizer.json's `model` that the pipeline keeps."""
    kind = str(model.get("type"))
    return {"type": kind} | {
        key: model[key] for key in _OPTIONS.get(kind, ()) if model.get(key) not in (None, "")
    }


class PipelineEncoder:
    """Encodes plain text through the library's normalizer, pre-tokenizer and model.

    Raises FormatError for a description that the library cannot read, UnsupportedError for another model.
    """

    def __init__(self, metadata: Mapping[str, Value], vocabulary: Vocabulary) -> None:
        self.description = _description(metadata)
        self.byte_level = is_byte_level(self.description)
        self.suffix = str(self.description["model"].get("end_of_word_suffix") or "")
        _check_steps(self.description)
        model = _model(self.description, metadata, vocabulary)
        self._first = _library(self.description, model)
        # "first" means the start of the whole text, and a part after a special token is none.
        later = json.loads(
            json.dumps(self.description).replace('"prepend_scheme": "first"', '"prepend_scheme": "never"')
        )
        self._later = self._first if later == self.description else _library(later, model)

    def encode(self, text: str, *, first: bool = True) -> list[int]:
        """The ids of a part of a text; first: the text begins with it."""
        library = self._first if first else self._later
        try:
            return list(library.encode(text, add_special_tokens=False).ids)
        except BaseException as error:
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            raise ModelError(
                f"{KEY} cannot encode a text of {len(text)} characters ({show(str(error))}): "
                "convert the model anew"
            ) from None


def _description(metadata: Mapping[str, Value]) -> dict[str, Any]:
    text = text_value(metadata, KEY)
    if len(text) > MAX_JSON_CHARS:
        raise FormatError(f"{KEY} has {len(text)} characters, expected at most {MAX_JSON_CHARS}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("model"), dict):
        raise FormatError(f"{KEY} is {show(text)}, expected an object with a model: convert the model anew")
    return value


def _check_steps(description: Mapping[str, Any]) -> None:
    """Refuse descriptions that make long texts of short ones."""
    steps = [step for key in ("normalizer", "pre_tokenizer") for step in steps_of(description.get(key))]
    growth = 1
    for step in steps:
        if step.get("type") in ("Replace", "Prepend"):
            growth *= max(1, len(str(step.get("content", step.get("prepend", "")))))
    if len(steps) > MAX_STEPS or growth > MAX_GROWTH:
        raise UnsupportedError(
            f"{KEY} has {len(steps)} steps that make a text up to {growth} times as long, expected at most "
            f"{MAX_STEPS} and {MAX_GROWTH}: convert the model anew"
        )


def _library(description: Mapping[str, Any], model: Any) -> LibraryTokenizer:
    from tokenizers import Tokenizer

    shell: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    shell |= {key: description.get(key) for key in ("normalizer", "pre_tokenizer")}
    try:
        steps = Tokenizer.from_str(json.dumps(shell))
        library = Tokenizer(model)
        if steps.normalizer is not None:
            library.normalizer = steps.normalizer
        if steps.pre_tokenizer is not None:
            library.pre_tokenizer = steps.pre_tokenizer
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise FormatError(f"{KEY} cannot be used ({show(str(error))}): convert the model anew") from None
    return library


def _model(description: Mapping[str, Any], metadata: Mapping[str, Value], vocabulary: Vocabulary) -> Any:
    from tokenizers import models

    options = description["model"]
    kind = options.get("type")
    if kind not in MODELS:
        raise UnsupportedError(
            f"{KEY}: the model is {show(kind)}, supported are {', '.join(MODELS)}: convert the model anew"
        )
    given = {key: options[key] for key in _OPTIONS[kind] if key in options}
    try:
        if kind == "BPE":
            return models.BPE(*_merged(description, metadata, vocabulary), **given)
        if kind == "WordPiece":
            return models.WordPiece(_pieces(vocabulary, given), **given)
        unknown = vocabulary.special_ids.get("unk")
        byte_fallback = bool(given.get("byte_fallback", False))
        return models.Unigram(weighted(vocabulary, byte_fallback), unknown, byte_fallback)
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise FormatError(f"{KEY}: the model cannot be made ({show(str(error))}): convert it anew") from None


def _merged(
    description: Mapping[str, Any], metadata: Mapping[str, Value], vocabulary: Vocabulary
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The tokens that text may become, and the merges between them."""
    vocab = _visible(vocabulary, description["model"].get("unk_token"))
    separator = str(description.get("separator") or " ")
    merges = string_table(metadata, "tokenizer.ggml.merges", MAX_MERGES)
    pairs = []
    for merge in map(merges.text, range(len(merges))):
        left, _, right = merge.partition(separator)
        if left in vocab and right in vocab and left + right in vocab:
            pairs.append((left, right))
    return vocab, pairs


def _pieces(vocabulary: Vocabulary, options: Mapping[str, Any]) -> dict[str, int]:
    """WordPiece's tokens: U+2581 before the first of a word becomes a prefix before the others."""
    prefix = str(options.get("continuing_subword_prefix", "##"))
    unknown = options.get("unk_token", "[UNK]")
    return {
        text if text == unknown else text[1:] if text.startswith(SPACE) else prefix + text: token
        for text, token in _visible(vocabulary, unknown).items()
    }


def _visible(vocabulary: Vocabulary, unknown: object) -> dict[str, int]:
    found = {
        text: token
        for token, text in enumerate(map(vocabulary.tokens.text, range(len(vocabulary.tokens))))
        if text and (not vocabulary.hidden[token] or vocabulary.types[token] == BYTE)
        if vocabulary.types[token] != UNUSED
    }
    token = vocabulary.tokens.find(str(unknown)) if unknown else -1
    return found | ({str(unknown): token} if token >= 0 else {})
