"""A checkpoint's tokenizer as GGUF metadata, checked against the tokenizer itself before it is trusted.

The pre-tokenizer is recognised by what tokenizer.json says, not by a hash of what it does. Every line of a
multilingual text must get the same ids from the source's own library and from the metadata; the lines and
their ids are stored, so that `edgellm doctor` can check them again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.pipeline import Pair
from edgellm.convert.pre_tokenizer import known_name, normal_form, pre_tokenizer_rules
from edgellm.convert.sentencepiece import read_sentencepiece
from edgellm.errors import FileError, FormatError, ModelError, UnsupportedError, show
from edgellm.gguf.types import ValueType
from edgellm.tokenizer import Tokenizer
from edgellm.tokenizer.pretokenize import is_panic
from edgellm.tokenizer.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

_SPECIALS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",
    "pad": "padding_token_id",
    "cls": "cls_token_id",
    "mask": "mask_token_id",
}
TEST_TEXTS = "edgellm.tokenizer.test_texts"
TEST_IDS = "edgellm.tokenizer.test_ids"
_MAX_VOCABULARY = 4_000_000
# The score of a token that no merge may make.
_NEVER = -10_000.0


class Tokens:
    """A vocabulary under construction: texts, types and scores by id."""

    def __init__(self, n_vocab: int) -> None:
        if not 0 < n_vocab <= _MAX_VOCABULARY:
            raise ModelError(f"the vocabulary has {n_vocab} tokens, expected 1 to {_MAX_VOCABULARY}")
        self.texts = [f"[PAD{token}]" for token in range(n_vocab)]
        self.types = [UNUSED] * n_vocab
        self.scores = [_NEVER] * n_vocab

    def put(self, token: int, text: str, kind: int, score: float = 0.0) -> None:
        """Set a token; FormatError if there is no such id."""
        if not 0 <= token < len(self.texts):
            raise FormatError(
                f"the tokenizer has a token {text[:40]!r} with id {token}, expected one below "
                f"{len(self.texts)}, "
                "the rows of the embedding; download the checkpoint again"
            )
        self.texts[token], self.types[token], self.scores[token] = text, kind, score


def tokenizer_metadata(checkpoint: Checkpoint, n_vocab: int) -> dict[str, Pair]:
    """The `tokenizer.*` and `edgellm.tokenizer.*` metadata for an embedding of n_vocab rows.

    Raises FileError if there is no tokenizer, UnsupportedError for one that GGUF cannot express, ModelError
    if the metadata does not give the ids that the source's tokenizer gives.
    """
    settings = checkpoint.json("tokenizer_config.json") or {}
    source = checkpoint.json("tokenizer.json")
    model = checkpoint.bytes("tokenizer.model")
    added = _added_tokens(checkpoint, source, settings)
    if model is not None:
        found, encode = read_sentencepiece(model, n_vocab, added, settings)
    elif source is not None:
        found, encode = _from_json(checkpoint, source, n_vocab, added)
    else:
        raise FileError(
            f"{checkpoint.folder}: expected tokenizer.json or tokenizer.model, found neither; "
            "download it again"
        )
    texts = found["tokenizer.ggml.tokens"].value
    assert isinstance(texts, list)
    found |= _special_ids(checkpoint, settings, {str(text): token for token, text in enumerate(texts)})
    found |= _templates(checkpoint, settings)
    return found | _proof({key: pair.value for key, pair in found.items()}, encode)


def sample_lines() -> list[str]:
    """The lines of the bundled multilingual text."""
    return resources.files("edgellm.convert").joinpath("sample.txt").read_text("utf-8").split("\n")


def _proof(metadata: Mapping[str, Any], encode: Any) -> dict[str, Pair]:
    tokenizer = Tokenizer.from_metadata(metadata)
    lines = sample_lines()
    all_ids = []
    for line in lines:
        expected = list(encode(line))
        found = tokenizer.encode(line, add_special=False)
        if found != expected:
            at = next(
                (i for i, pair in enumerate(zip(found, expected, strict=False)) if pair[0] != pair[1]),
                min(len(found), len(expected)),
            )
            raise ModelError(
                f"the tokenizer written to GGUF gives other ids than the source's: {line[:60]!r} at "
                f"token {at}: "
                f"{found[at : at + 3]}, expected {expected[at : at + 3]}; this tokenizer cannot be converted"
            )
        all_ids.append(" ".join(map(str, expected)))
    return {TEST_TEXTS: Pair(lines, ValueType.STRING), TEST_IDS: Pair(all_ids, ValueType.STRING)}


def _added_tokens(
    checkpoint: Checkpoint, source: Mapping[str, Any] | None, settings: Mapping[str, Any]
) -> dict[int, tuple[str, bool, bool, bool]]:
    """Tokens beside the model's own: id -> text, special, lstrip, rstrip."""
    found: dict[int, tuple[str, bool, bool, bool]] = {}
    for text, token in (checkpoint.json("added_tokens.json") or {}).items():
        if type(token) is int:
            found[token] = (str(text), False, False, False)
    decoder = settings.get("added_tokens_decoder")
    entries = [(key, value) for key, value in decoder.items()] if isinstance(decoder, Mapping) else []
    listed = (source or {}).get("added_tokens")
    if isinstance(listed, list):
        entries += [(entry.get("id"), entry) for entry in listed if isinstance(entry, Mapping)]
    for key, entry in entries:
        if (
            not isinstance(entry, Mapping)
            or not isinstance(entry.get("content"), str)
            or not str(key).isdigit()
        ):
            raise FormatError("the tokenizer's added tokens are malformed; download the checkpoint again")
        found[int(key)] = (
            entry["content"],
            bool(entry.get("special")),
            bool(entry.get("lstrip")),
            bool(entry.get("rstrip")),
        )
    return found


def strip_ids(added: Mapping[int, tuple[str, bool, bool, bool]]) -> dict[str, Pair]:
    """The ids of tokens that swallow white space around them, under our own keys."""
    found = {}
    for index, side in ((2, "lstrip"), (3, "rstrip")):
        ids = sorted(token for token, entry in added.items() if entry[index])
        if ids:
            found[f"edgellm.tokenizer.{side}_ids"] = Pair(ids, ValueType.INT32)
    return found


def _from_json(
    checkpoint: Checkpoint,
    source: Mapping[str, Any],
    n_vocab: int,
    added: Mapping[int, tuple[str, bool, bool, bool]],
) -> tuple[dict[str, Pair], Any]:
    model = source.get("model")
    if not isinstance(model, Mapping):
        raise FormatError("tokenizer.json has no 'model', expected an object; download it again")
    library = _Library(checkpoint.folder / "tokenizer.json")
    kind = model.get("type") or ("BPE" if "merges" in model else None)
    vocab = model.get("vocab")
    if kind == "BPE" and isinstance(vocab, Mapping):
        found = _bpe(source, model, vocab, n_vocab, added)
    elif kind == "WordPiece" and isinstance(vocab, Mapping):
        found = _word_piece(source, model, vocab, n_vocab, added)
    elif kind == "Unigram" and isinstance(vocab, list):
        found = _unigram(model, vocab, n_vocab, added)
    else:
        raise UnsupportedError(
            f"tokenizer.json: the model {str(kind)[:40]!r} is not implemented, expected BPE, WordPiece "
            "or Unigram"
        )
    found |= _ends(library)
    return found, library.encode


class _Library:
    """tokenizer.json as the `tokenizers` library reads it, which may give up on it at any time."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer as LibraryTokenizer

        with _refusing_errors():
            self._tokenizer = LibraryTokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        """The ids of a text; FormatError if the library fails."""
        with _refusing_errors():
            return list(self._tokenizer.encode(text, add_special_tokens=add_special).ids)


@contextmanager
def _refusing_errors() -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise FormatError(f"tokenizer.json cannot be used: {show(str(error))}; download it again") from None


def _ends(library: _Library) -> dict[str, Pair]:
    """Whether a text gets a token before and after it, by trying it."""
    plain, full = (library.encode("a", add_special=special) for special in (False, True))
    n_before = next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)
    n_after = len(full) - len(plain) - n_before
    return {
        "tokenizer.ggml.add_bos_token": Pair(n_before > 0),
        "tokenizer.ggml.add_eos_token": Pair(n_after > 0),
    }


def _bpe(
    source: Mapping[str, Any],
    model: Mapping[str, Any],
    vocab: Mapping[str, int],
    n_vocab: int,
    added: Mapping[int, tuple[str, bool, bool, bool]],
) -> dict[str, Pair]:
    byte_fallback = bool(model.get("byte_fallback"))
    tokens = Tokens(n_vocab)
    for text, token in vocab.items():
        byte = byte_fallback and len(text) == 6 and text.startswith("<0x") and text.endswith(">")
        tokens.put(token, text, BYTE if byte else UNKNOWN if text == model.get("unk_token") else NORMAL)
    for token, (text, special, _, _) in added.items():
        tokens.put(token, text, CONTROL if special else USER_DEFINED)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges") or ()]
    if byte_fallback:
        return _byte_fallback_bpe(source, tokens, merges, added)
    ignore_merges = bool(model.get("ignore_merges"))
    rules = pre_tokenizer_rules(source.get("pre_tokenizer"))
    name = known_name(rules, ignore_merges=ignore_merges)
    form = normal_form(source.get("normalizer"))
    found = {
        "tokenizer.ggml.model": Pair("gpt2"),
        "tokenizer.ggml.pre": Pair(name or "default"),
        "tokenizer.ggml.tokens": Pair(tokens.texts, ValueType.STRING),
        "tokenizer.ggml.token_type": Pair(tokens.types, ValueType.INT32),
        "tokenizer.ggml.merges": Pair(merges, ValueType.STRING),
    }
    if name is None:
        found["edgellm.tokenizer.pre_regexes"] = Pair(list(rules), ValueType.STRING)
        found["edgellm.tokenizer.ignore_merges"] = Pair(ignore_merges)
    if form is not None:
        found["edgellm.tokenizer.normalizer"] = Pair([form], ValueType.STRING)
    return found | strip_ids(added)


def _byte_fallback_bpe(
    source: Mapping[str, Any],
    tokens: Tokens,
    merges: Sequence[str],
    added: Mapping[int, tuple[str, bool, bool, bool]],
) -> dict[str, Pair]:
    """SentencePiece's BPE as tokenizer.json writes it; a token's score is the rank of its first merge."""
    ids = {text: token for token, text in enumerate(tokens.texts)}
    for rank, merge in reversed(list(enumerate(merges))):
        token = ids.get(merge.replace(" ", "", 1))
        if token is not None:
            tokens.scores[token] = -float(rank)
    normalizer = str(source.get("normalizer"))
    pre_tokenizer = source.get("pre_tokenizer")
    prepends = "'Prepend'" in normalizer
    if isinstance(pre_tokenizer, Mapping) and pre_tokenizer.get("type") == "Metaspace":
        prepends = pre_tokenizer.get("prepend_scheme", "always") != "never"
    return {
        "tokenizer.ggml.model": Pair("llama"),
        "tokenizer.ggml.pre": Pair("default"),
        "tokenizer.ggml.tokens": Pair(tokens.texts, ValueType.STRING),
        "tokenizer.ggml.scores": Pair(tokens.scores, ValueType.FLOAT32),
        "tokenizer.ggml.token_type": Pair(tokens.types, ValueType.INT32),
        "tokenizer.ggml.add_space_prefix": Pair(prepends),
    } | strip_ids(added)


def _word_piece(
    source: Mapping[str, Any],
    model: Mapping[str, Any],
    vocab: Mapping[str, int],
    n_vocab: int,
    added: Mapping[int, tuple[str, bool, bool, bool]],
) -> dict[str, Pair]:
    tokens = Tokens(n_vocab)
    special = {entry[0] for entry in added.values()}
    for text, token in vocab.items():
        if text in special:
            tokens.put(token, text, UNKNOWN if text == model.get("unk_token") else CONTROL)
        elif text.startswith("[") and text.endswith("]"):
            tokens.put(token, text, NORMAL)
        else:
            tokens.put(token, text[2:] if text.startswith("##") else "▁" + text, NORMAL)
    normalizer = source.get("normalizer")
    if not isinstance(normalizer, Mapping) or normalizer.get("type") != "BertNormalizer":
        raise UnsupportedError("tokenizer.json: WordPiece without BertNormalizer is not implemented")
    lowercase = bool(normalizer.get("lowercase", True))
    strip = normalizer.get("strip_accents")
    return {
        "tokenizer.ggml.model": Pair("bert"),
        "tokenizer.ggml.pre": Pair("default"),
        "tokenizer.ggml.token_type_count": Pair(2),
        "tokenizer.ggml.tokens": Pair(tokens.texts, ValueType.STRING),
        "tokenizer.ggml.token_type": Pair(tokens.types, ValueType.INT32),
        "tokenizer.ggml.normalizer.lowercase": Pair(lowercase),
        "tokenizer.ggml.normalizer.strip_accents": Pair(lowercase if strip is None else bool(strip)),
    }


def _unigram(
    model: Mapping[str, Any],
    vocab: Sequence[Any],
    n_vocab: int,
    added: Mapping[int, tuple[str, bool, bool, bool]],
) -> dict[str, Pair]:
    tokens = Tokens(n_vocab)
    for token, (text, score) in enumerate(vocab):
        tokens.put(token, text, UNKNOWN if token == model.get("unk_id") else NORMAL, float(score))
    for token, (text, special, _, _) in added.items():
        if tokens.types[token] != UNKNOWN:
            tokens.put(token, text, CONTROL if special else USER_DEFINED)
    return {
        "tokenizer.ggml.model": Pair("t5"),
        "tokenizer.ggml.pre": Pair("default"),
        "tokenizer.ggml.tokens": Pair(tokens.texts, ValueType.STRING),
        "tokenizer.ggml.scores": Pair(tokens.scores, ValueType.FLOAT32),
        "tokenizer.ggml.token_type": Pair(tokens.types, ValueType.INT32),
    }


def _special_ids(
    checkpoint: Checkpoint, settings: Mapping[str, Any], ids: Mapping[str, int]
) -> dict[str, Pair]:
    """The ids of special tokens: by their texts in the tokenizer's files, or else by config.json."""
    listed = checkpoint.json("special_tokens_map.json") or {}
    generation = checkpoint.json("generation_config.json") or {}
    found: dict[str, Pair] = {}
    for name, key in _SPECIALS.items():
        text = settings.get(f"{name}_token") or listed.get(f"{name}_token")
        if isinstance(text, Mapping):
            text = text.get("content")
        token = ids.get(text) if isinstance(text, str) else None
        if token is None:
            token = next(
                (
                    ends[0]
                    for config in (checkpoint.config, generation)
                    if (ends := _ids_in(config, name, len(ids)))
                ),
                None,
            )
        if token is not None:
            found[f"tokenizer.ggml.{key}"] = Pair(token)
    end_of_document = checkpoint.config.get("eod_token_id")
    if type(end_of_document) is int:
        found["tokenizer.ggml.eos_token_id"] = Pair(end_of_document)
    eos = found.get("tokenizer.ggml.eos_token_id")
    others = [token for token in _ids_in(generation, "eos", len(ids)) if eos is None or token != eos.value]
    for token, key in zip(others, ("eot", "eom"), strict=False):
        found[f"tokenizer.ggml.{key}_token_id"] = Pair(token)
    for name in ("bos", "eos"):
        flag = settings.get(f"add_{name}_token")
        if isinstance(flag, bool) and not (checkpoint.folder / "tokenizer.json").exists():
            found[f"tokenizer.ggml.add_{name}_token"] = Pair(flag)
    return found


def _ids_in(config: Mapping[str, Any], name: str, n_tokens: int) -> list[int]:
    """A config's `<name>_token_id`, which may be one or a list; those out of range are left out."""
    nested = config.get("text_config")
    value = config.get(f"{name}_token_id")
    if value is None and isinstance(nested, Mapping):
        value = nested.get(f"{name}_token_id")
    values = value if isinstance(value, list) else [value]
    return [token for token in values if type(token) is int and 0 <= token < n_tokens]


def _templates(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> dict[str, Pair]:
    """The chat template, and others by their names."""
    text = checkpoint.text("chat_template.jinja")
    value = settings.get("chat_template") if text is None else text
    if isinstance(value, str):
        return {"tokenizer.chat_template": Pair(value)}
    found: dict[str, Pair] = {}
    names = []
    for entry in value if isinstance(value, list) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("template"), str):
            name = str(entry.get("name"))
            if name == "default":
                found["tokenizer.chat_template"] = Pair(entry["template"])
            else:
                names.append(name)
                found[f"tokenizer.chat_template.{name}"] = Pair(entry["template"])
    if names:
        found["tokenizer.chat_templates"] = Pair(names, ValueType.STRING)
    return found
