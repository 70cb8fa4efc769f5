"""A tokenizer.json as GGUF metadata: in GGUF's own terms where they say the same, else as a pipeline.

`forms` gives both; the caller takes the first that gives the ids of the `tokenizers` library.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from edgellm.convert.pipeline import Pair
from edgellm.convert.pre_tokenizer import known_name, normal_form, pre_tokenizer_rules, prefix_scheme
from edgellm.convert.tokens import Added, Tokens, matching_ids
from edgellm.errors import FormatError, UnsupportedError, show
from edgellm.gguf.types import ValueType
from edgellm.tokenizer.alphabet import CHAR_TO_BYTE, SPACE
from edgellm.tokenizer.pipeline import KEY as PIPELINE
from edgellm.tokenizer.pipeline import describe_model, steps_of
from edgellm.tokenizer.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN

Form = Callable[[], dict[str, Pair]]
SCHEME = "edgellm.tokenizer.prepend_scheme"


def forms(source: Mapping[str, Any], n_vocab: int, added: Mapping[int, Added]) -> Iterator[Form]:
    """The ways to write the tokenizer, best first; a form raises UnsupportedError if it cannot say it."""
    model = source.get("model")
    if not isinstance(model, Mapping):
        raise FormatError(f"tokenizer.json: 'model' is {show(model)}, expected an object; download it again")
    vocab = model.get("vocab")
    kind = model.get("type") or ("BPE" if "merges" in model else None)
    makers = {"BPE": (_bpe, Mapping), "WordPiece": (_word_piece, Mapping), "Unigram": (_unigram, list)}
    maker, expected = makers.get(str(kind), (None, object))
    if maker is None or not isinstance(vocab, expected):
        raise UnsupportedError(
            f"tokenizer.json: the model is {show(kind)} with a vocabulary of type {type(vocab).__name__}, "
            f"supported are {', '.join(makers)}; use a checkpoint with one of these"
        )
    described = dict(source) | {"model": dict(model) | {"type": kind}}
    for native in (True, False):
        yield lambda native=native: maker(described, Tokens(n_vocab), added, native)  # type: ignore[misc]


def _bpe(
    source: Mapping[str, Any], tokens: Tokens, added: Mapping[int, Added], native: bool
) -> dict[str, Pair]:
    model = source["model"]
    byte_fallback = model.get("byte_fallback") is True
    for text, token in model["vocab"].items():
        byte = byte_fallback and len(text) == 6 and text.startswith("<0x") and text.endswith(">")
        tokens.put(token, text, BYTE if byte else UNKNOWN if text == model.get("unk_token") else NORMAL)
    _put_added(tokens, added)
    merges = _merges(model, " ")
    if not native:
        found = {"tokenizer.ggml.model": Pair("gpt2"), "tokenizer.ggml.pre": Pair("edgellm-pipeline")}
        separator = "\0" if any(merge.count(" ") != 1 for merge in merges) else " "
        found["tokenizer.ggml.merges"] = Pair(_merges(model, separator), ValueType.STRING)
        return found | _pipeline(source, tokens, added, separator=separator)
    if byte_fallback:
        return _scored_bpe(source, tokens, merges) | matching_ids(added)
    return _byte_level_bpe(source, tokens, merges) | matching_ids(added)


def _merges(model: Mapping[str, Any], separator: str) -> list[str]:
    """The merges as GGUF lists them, with another separator than a space where tokens hold spaces."""
    merges = model.get("merges") or ()
    if not isinstance(merges, Sequence) or isinstance(merges, str):
        raise FormatError(f"tokenizer.json: 'merges' is {show(merges)}, expected a list; download it again")
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else list(map(str, merge)) for merge in merges]
    return [separator.join(pair) for pair in pairs]


def _byte_level_bpe(source: Mapping[str, Any], tokens: Tokens, merges: list[str]) -> dict[str, Pair]:
    model = source["model"]
    if model.get("unk_token") is not None and not CHAR_TO_BYTE.keys() <= model["vocab"].keys():
        raise UnsupportedError("tokenizer.json: an unknown token for bytes that are no tokens")
    if model.get("end_of_word_suffix") or model.get("continuing_subword_prefix"):
        raise UnsupportedError("tokenizer.json: BPE with a prefix or a suffix of words")
    ignore_merges = bool(model.get("ignore_merges"))
    prefixed, rules = pre_tokenizer_rules(source.get("pre_tokenizer"))
    name = known_name(rules, ignore_merges=ignore_merges)
    form = normal_form(source.get("normalizer"))
    found = {
        "tokenizer.ggml.model": Pair("gpt2"),
        "tokenizer.ggml.pre": Pair(name or "default"),
        **tokens.pairs(),
        "tokenizer.ggml.merges": Pair(merges, ValueType.STRING),
    }
    if name is None:
        found["edgellm.tokenizer.pre_regexes"] = Pair(list(rules), ValueType.STRING)
        found["edgellm.tokenizer.ignore_merges"] = Pair(ignore_merges)
    if form is not None:
        found["edgellm.tokenizer.normalizer"] = Pair([form], ValueType.STRING)
    if prefixed:
        found["tokenizer.ggml.add_space_prefix"] = Pair(True)
        found[SCHEME] = Pair("always")
    return found


def _scored_bpe(source: Mapping[str, Any], tokens: Tokens, merges: Sequence[str]) -> dict[str, Pair]:
    """SentencePiece's BPE as tokenizer.json writes it; a token's score is the rank of its first merge."""
    scheme = prefix_scheme(source.get("normalizer"), source.get("pre_tokenizer"), tokens.texts)
    _score(tokens, merges)
    return {
        "tokenizer.ggml.model": Pair("llama"),
        "tokenizer.ggml.pre": Pair("default"),
        **tokens.pairs(),
        "tokenizer.ggml.scores": Pair(tokens.scores, ValueType.FLOAT32),
        "tokenizer.ggml.add_space_prefix": Pair(scheme != "never"),
    } | ({SCHEME: Pair(scheme)} if scheme in ("always", "first") else {})


def _score(tokens: Tokens, merges: Sequence[str]) -> None:
    """Set scores that merge in the order of the merges; UnsupportedError if no scores do.

    Scores know a token, not the pair that makes it: all pairs must merge, those of a token in a row.
    """
    ids = {text: token for token, text in enumerate(tokens.texts) if tokens.types[token] == NORMAL}
    n_pairs: dict[int, int] = {}
    previous = -1
    for rank, merge in enumerate(merges):
        token = ids.get(merge.replace(" ", "", 1), -1)
        if token < 0:
            continue
        if token not in n_pairs:
            tokens.scores[token] = -float(rank)
        elif token != previous:
            raise UnsupportedError("tokenizer.json: the merges of one token are not in a row")
        n_pairs[token] = n_pairs.get(token, 0) + 1
        previous = token
    for text, token in ids.items():
        if sum(text[:k] in ids and text[k:] in ids for k in range(1, len(text))) > n_pairs.get(token, 0):
            raise UnsupportedError(f"tokenizer.json: some pairs that make {show(text)} do not merge")


def _word_piece(
    source: Mapping[str, Any], tokens: Tokens, added: Mapping[int, Added], native: bool
) -> dict[str, Pair]:
    model, normalizer = source["model"], source.get("normalizer")
    prefix = str(model.get("continuing_subword_prefix") or "##")
    special = {entry.text for entry in added.values()}
    for text, token in model["vocab"].items():
        if text in special:
            tokens.put(token, text, UNKNOWN if text == model.get("unk_token") else CONTROL)
        elif native and text.startswith("[") and text.endswith("]"):
            tokens.put(token, text, NORMAL)
        else:
            tokens.put(token, text.removeprefix(prefix) if text.startswith(prefix) else SPACE + text, NORMAL)
    if not native:
        for token, entry in added.items():
            if tokens.types[token] != UNKNOWN:
                tokens.put(token, entry.text, entry.kind)
    found = {
        "tokenizer.ggml.model": Pair("bert"),
        "tokenizer.ggml.pre": Pair("default"),
        "tokenizer.ggml.token_type_count": Pair(2),
        **tokens.pairs(),
    }
    if not native:
        return found | _pipeline(source, tokens, added)
    if not isinstance(normalizer, Mapping) or normalizer.get("type") != "BertNormalizer" or prefix != "##":
        raise UnsupportedError("tokenizer.json: WordPiece without BertNormalizer has no name in GGUF")
    lowercase = bool(normalizer.get("lowercase", True))
    strip = normalizer.get("strip_accents")
    found["tokenizer.ggml.normalizer.lowercase"] = Pair(lowercase)
    found["tokenizer.ggml.normalizer.strip_accents"] = Pair(lowercase if strip is None else bool(strip))
    return found


def _unigram(
    source: Mapping[str, Any], tokens: Tokens, added: Mapping[int, Added], native: bool
) -> dict[str, Pair]:
    model = source["model"]
    byte_fallback, unknown = model.get("byte_fallback") is True, model.get("unk_id")
    for token, entry in enumerate(model["vocab"]):
        if not isinstance(entry, list) or len(entry) != 2 or not isinstance(entry[0], str):
            raise FormatError(
                f"tokenizer.json: entry {token} of the vocabulary is {show(entry)}, expected a text and "
                "its score; download it again"
            )
        text = entry[0]
        byte = byte_fallback and len(text) == 6 and text.startswith("<0x") and text.endswith(">")
        kind = UNKNOWN if token == unknown else BYTE if byte else NORMAL
        tokens.put(token, text, kind, float(entry[1]))
    for token, added_entry in added.items():
        if tokens.types[token] != UNKNOWN:
            tokens.put(token, added_entry.text, added_entry.kind, tokens.scores[token])
    found = {
        "tokenizer.ggml.model": Pair("t5"),
        "tokenizer.ggml.pre": Pair("default"),
        **({"tokenizer.ggml.unknown_token_id": Pair(unknown)} if type(unknown) is int else {}),
        **tokens.pairs(),
        "tokenizer.ggml.scores": Pair(tokens.scores, ValueType.FLOAT32),
    }
    if not native:
        return found | _pipeline(source, tokens, added)
    if byte_fallback:
        raise UnsupportedError("tokenizer.json: Unigram with byte_fallback has no name in GGUF")
    return found | _unigram_steps(source) | matching_ids(added)


def _unigram_steps(source: Mapping[str, Any]) -> dict[str, Pair]:
    """Unigram's normalizer in GGUF's terms, as far as they go."""
    found: dict[str, Pair] = {"tokenizer.ggml.remove_extra_whitespaces": Pair(False)}
    for step in steps_of(source.get("normalizer")):
        if step.get("type") == "Precompiled":
            try:
                charsmap = base64.b64decode(str(step.get("precompiled_charsmap") or ""), validate=True)
            except ValueError:
                raise FormatError("tokenizer.json: the charsmap is damaged; download it again") from None
            if charsmap:
                found["tokenizer.ggml.precompiled_charsmap"] = Pair(list(charsmap), ValueType.UINT8)
        elif step.get("type") == "Replace" and step.get("pattern") == {"Regex": " {2,}"}:
            found["tokenizer.ggml.remove_extra_whitespaces"] = Pair(True)
        else:
            raise UnsupportedError(f"tokenizer.json: {show(step.get('type'))} of Unigram has no name in GGUF")
    schemes = [
        step.get("prepend_scheme", "always")
        for step in steps_of(source.get("pre_tokenizer"))
        if step.get("type") == "Metaspace"
    ]
    if "first" in schemes:
        raise UnsupportedError("tokenizer.json: Unigram with a prefix before the first word only")
    return found | {"tokenizer.ggml.add_space_prefix": Pair("always" in schemes)}


def _put_added(tokens: Tokens, added: Mapping[int, Added]) -> None:
    for token, entry in added.items():
        tokens.put(token, entry.text, entry.kind)


def _pipeline(
    source: Mapping[str, Any], tokens: Tokens, added: Mapping[int, Added], **more: str
) -> dict[str, Pair]:
    """The steps as the library reads them, beside the vocabulary."""
    description: dict[str, Any] = {"model": describe_model(source["model"]), **more}
    description |= {key: source.get(key) for key in ("normalizer", "pre_tokenizer")}
    return tokens.pairs() | matching_ids(added) | {PIPELINE: Pair(json.dumps(description))}
