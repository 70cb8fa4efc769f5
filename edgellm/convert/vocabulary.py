"""A checkpoint's tokenizer as GGUF metadata, checked against the tokenizer itself before it is trusted.

tokenizer.json counts, as in transformers. Its rules are recognised by what it says, not by a hash of what it
does. Every line of a multilingual text must get the same ids from the source's own library and from the
metadata; the lines and their ids are stored, so that `edgellm doctor` can check them again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from typing import Any

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.pipeline import Pair
from edgellm.convert.plain_tokenizers import read_plain, refuse_model
from edgellm.convert.pre_tokenizer import prefix_scheme
from edgellm.convert.sentencepiece import is_byte_pairs, read_sentencepiece
from edgellm.convert.special_tokens import rank_prompt, special_ids, surroundings, templates
from edgellm.convert.tokenizer_json import SCHEME, forms
from edgellm.convert.tokens import Added, added_tokens
from edgellm.errors import EdgeLLMError, FormatError, ModelError, show
from edgellm.gguf.types import ValueType
from edgellm.tokenizer import Tokenizer
from edgellm.tokenizer.library import is_panic

TEST_TEXTS = "edgellm.tokenizer.test_texts"
TEST_IDS = "edgellm.tokenizer.test_ids"
# Special tokens that are tried in a text, of those that the tokenizer has.
_MAX_TRIED = 48
Encode = Callable[[str], list[int]]


def tokenizer_metadata(checkpoint: Checkpoint, n_vocab: int) -> dict[str, Pair]:
    """The `tokenizer.*` and `edgellm.tokenizer.*` metadata for an embedding of n_vocab rows.

    Raises FileError if there is no tokenizer, UnsupportedError for one of a kind that is not implemented,
    ModelError if the metadata does not give the ids that the source's tokenizer gives.
    """
    settings = checkpoint.json("tokenizer_config.json") or {}
    source = checkpoint.json("tokenizer.json")
    model = checkpoint.bytes("tokenizer.model")
    byte_pairs = model is not None and is_byte_pairs(model)
    listed = checkpoint.json("added_tokens.json") or {}
    added = added_tokens(listed, source or {}, settings, n_vocab)
    if source is None and not byte_pairs:
        if model is not None:
            refuse_model(checkpoint, model)
        source = read_plain(checkpoint, settings, added)
        added = added_tokens(listed, source, settings, n_vocab)
    if source is None:
        assert model is not None
        return _of_model(checkpoint, model, n_vocab, added, settings)
    library = _Library(source)
    refused: EdgeLLMError | None = None
    candidates = [_scored_form(model, n_vocab, added, source)] if byte_pairs and model is not None else []
    for form in (*candidates, *forms(source, n_vocab, added)):
        try:
            found = _completed(checkpoint, settings, form(), library.ends())
            proof = _proof(found, library.encode, library.tried(added))
            found |= _separator(library, found)
        except EdgeLLMError as error:
            refused = error
        else:
            return found | templates(checkpoint, settings) | rank_prompt(checkpoint, found) | proof
    assert refused is not None
    raise refused


def _of_model(
    checkpoint: Checkpoint,
    model: bytes,
    n_vocab: int,
    added: Mapping[int, Added],
    settings: Mapping[str, Any],
) -> dict[str, Pair]:
    """A tokenizer.model alone: SentencePiece's own ids count; bos comes before a text, if no flag differs."""
    found, encode = read_sentencepiece(model, n_vocab, added)
    prefix = settings.get("add_prefix_space")
    if isinstance(prefix, bool):
        found["tokenizer.ggml.add_space_prefix"] = Pair(prefix)
    elif found["tokenizer.ggml.add_space_prefix"].value:
        del found["tokenizer.ggml.add_space_prefix"]
    if settings.get("legacy") is False and found.get("tokenizer.ggml.add_space_prefix") is None:
        # As transformers 5 makes a Metaspace of it: the first word alone, and one space before it at most.
        found[SCHEME] = Pair("first")
        found = _completed(checkpoint, settings, found, None)
        proof = _proof(found, lambda text: encode(text.removeprefix(" ")), ())
        return found | templates(checkpoint, settings) | proof
    found = _completed(checkpoint, settings, found, None)
    return found | templates(checkpoint, settings) | _proof(found, encode, ())


def _scored_form(
    model: bytes, n_vocab: int, added: Mapping[int, Added], source: Mapping[str, Any]
) -> Callable[[], dict[str, Pair]]:
    """The pieces and scores of tokenizer.model with the rules of the tokenizer.json beside it."""

    def form() -> dict[str, Pair]:
        found, _ = read_sentencepiece(model, n_vocab, added)
        texts = found["tokenizer.ggml.tokens"].value
        assert isinstance(texts, list)
        scheme = prefix_scheme(source.get("normalizer"), source.get("pre_tokenizer"), texts)
        del found["tokenizer.ggml.add_space_prefix"]
        if scheme == "never":
            found["tokenizer.ggml.add_space_prefix"] = Pair(False)
        return found | ({SCHEME: Pair(scheme)} if scheme in ("always", "first") else {})

    return form


def sample_lines() -> list[str]:
    """The lines of the bundled multilingual text."""
    return resources.files("edgellm.convert").joinpath("sample.txt").read_text("utf-8").split("\n")


def _completed(
    checkpoint: Checkpoint,
    settings: Mapping[str, Any],
    found: dict[str, Pair],
    ends: tuple[list[int], list[int]] | None,
) -> dict[str, Pair]:
    """The metadata with special tokens and those around a text; ends: of the source, None: bos before it."""
    texts = found["tokenizer.ggml.tokens"].value
    assert isinstance(texts, list)
    named = special_ids(checkpoint, settings, {str(text): i for i, text in enumerate(texts)})
    found = found | {key: pair for key, pair in named.items() if key not in found}
    if ends is None:
        bos = found.get("tokenizer.ggml.bos_token_id")
        ends = ([] if bos is None or not isinstance(bos.value, int) else [bos.value], [])
    before, after = surroundings(*ends, settings, found)
    found["tokenizer.ggml.add_bos_token"] = Pair(bool(before))
    found["tokenizer.ggml.add_eos_token"] = Pair(bool(after))
    if _made(found).surroundings != (before, after):
        found["edgellm.tokenizer.before_ids"] = Pair(before, ValueType.INT32)
        found["edgellm.tokenizer.after_ids"] = Pair(after, ValueType.INT32)
    return found


def _separator(library: _Library, found: Mapping[str, Pair]) -> dict[str, Pair]:
    """The flag of a separator between two texts, beside the token that ends the first."""
    sep = found.get("tokenizer.ggml.seperator_token_id")
    between = library.separated(_made(found).surroundings[1]) if sep is not None else []
    return {"tokenizer.ggml.add_sep_token": Pair(True)} if sep and between == [sep.value] else {}


def _made(found: Mapping[str, Pair]) -> Tokenizer:
    values: dict[str, Any] = {key: pair.value for key, pair in found.items()}
    return Tokenizer.from_metadata(values)


def _proof(found: Mapping[str, Pair], encode: Encode, more: Sequence[str]) -> dict[str, Pair]:
    """The sample's lines and their ids; ModelError where the metadata gives others, for `more` texts, too."""
    tokenizer = _made(found)
    lines = sample_lines()
    ids = []
    for line in (*lines, *more):
        expected = list(encode(line))
        got = tokenizer.encode(line, add_special=False, parse_special=line in more)
        if got != expected:
            pairs = enumerate(zip(got, expected, strict=False))
            at = next((i for i, pair in pairs if pair[0] != pair[1]), min(len(got), len(expected)))
            raise ModelError(
                f"the tokenizer written to GGUF gives other ids than the source's: {show(line)} at token "
                f"{at}: {got[at : at + 3]}, expected {expected[at : at + 3]}; this tokenizer cannot be "
                "converted"
            )
        ids.append(" ".join(map(str, expected)))
    return {
        TEST_TEXTS: Pair(lines, ValueType.STRING),
        TEST_IDS: Pair(ids[: len(lines)], ValueType.STRING),
    }


class _Library:
    """tokenizer.json as the `tokenizers` library reads it, which may give up on it at any time."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        from tokenizers import Tokenizer as LibraryTokenizer

        with _refusing_errors():
            self._tokenizer = LibraryTokenizer.from_str(json.dumps(source))
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        """The ids of a text; FormatError if the library fails."""
        with _refusing_errors():
            return list(self._tokenizer.encode(text, add_special_tokens=add_special).ids)

    def ends(self) -> tuple[list[int], list[int]]:
        """The tokens that the post-processor puts before and after a text, by trying it."""
        plain, full = (self.encode("a", add_special=special) for special in (False, True))
        n_before = next(
            i for i in range(len(full) + 1) if full[i : i + len(plain)] == plain or i == len(full)
        )
        return full[:n_before], full[n_before + len(plain) :]

    def separated(self, after: Sequence[int]) -> list[int]:
        """The tokens between two texts after the first one's end, by trying it."""
        with _refusing_errors():
            both = list(self._tokenizer.encode("a", "b").ids)
        before, _ = self.ends()
        first, second = (self.encode(text) for text in "ab")
        start, end = len(before) + len(first) + len(after), len(both) - len(after) - len(second)
        return both[start:end] if both[start - len(after) : start] == list(after) else []

    def tried(self, added: Mapping[int, Added]) -> list[str]:
        """Texts with special tokens among words."""
        with _refusing_errors():
            known = self._tokenizer.get_vocab(with_added_tokens=True)
        tokens = [
            entry.text
            for token, entry in sorted(added.items())
            if entry.special and not entry.normalized and known.get(entry.text) == token
        ]
        return [f"{text}a word{text}the {text} a" for text in tokens[:_MAX_TRIED]]


@contextmanager
def _refusing_errors() -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise FormatError(f"tokenizer.json cannot be used: {show(str(error))}; download it again") from None
