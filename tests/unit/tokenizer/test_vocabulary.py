"""Hostile and damaged vocabularies end in one sentence; odd but valid ones are read as intended."""

from __future__ import annotations

import re
import time

import pytest

from edgellm.errors import EdgeLLMError, FormatError, ModelError, UnsupportedError
from edgellm.tokenizer import Tokenizer
from tests.support.vocabularies import BYTE_TOKENS, small_bpe, small_spm


def make(metadata: dict[str, object]) -> Tokenizer:
    return Tokenizer.from_metadata(metadata)  # type: ignore[arg-type]


def without(metadata: dict[str, object], key: str) -> dict[str, object]:
    return {name: value for name, value in metadata.items() if name != key}


T = "tokenizer.ggml."

REFUSED: dict[str, tuple[dict[str, object], type[EdgeLLMError], str]] = {
    "nothing": ({}, FormatError, "tokenizer.ggml.model is missing"),
    "model is a number": ({T + "model": 3}, FormatError, "is 3, expected a string"),
    "unknown model": ({T + "model": "rwkv"}, UnsupportedError, "'rwkv'; supported are gpt2"),
    "no tokens": (without(small_bpe(), T + "tokens"), FormatError, "tokens is missing"),
    "tokens are a number": (small_bpe() | {T + "tokens": 5}, FormatError, "expected an array of strings"),
    "tokens are numbers": (small_bpe() | {T + "tokens": [1, 2]}, FormatError, "holds a int"),
    "one token is bytes": (small_bpe() | {T + "tokens": ["a", b"b"]}, FormatError, "holds a bytes"),
    "empty vocabulary": (small_bpe() | {T + "tokens": []}, FormatError, "tokens is empty"),
    "duplicate": (
        small_spm() | {T + "tokens": ["<unk>", "a", "a"]},
        FormatError,
        "holds 'a' twice, at 1 and 2",
    ),
    "megabyte piece": (
        small_spm() | {T + "tokens": ["<unk>", "a" * 2**20]},
        FormatError,
        "a token of 1048576 bytes, at most 16384",
    ),
    "long special token": (
        small_bpe() | {T + "tokens": ["a", "<" * 1000], T + "token_type": [1, 4]},
        FormatError,
        "special token of 1000 bytes",
    ),
    "types too short": (small_spm() | {T + "token_type": [1]}, FormatError, "has 1 entries, expected 269"),
    "types are one number": (
        small_spm() | {T + "token_type": 1},
        FormatError,
        "is 1, expected an array of numbers",
    ),
    "type out of range": (
        small_spm() | {T + "token_type": [1000] * 269},
        FormatError,
        "holds 1000, expected integers from 0 to 6",
    ),
    "types are strings": (small_spm() | {T + "token_type": ["a"] * 269}, FormatError, "not a number"),
    "scores too long": (
        small_spm() | {T + "scores": [0.0] * 270},
        FormatError,
        "has 270 entries, expected 269",
    ),
    "scores are strings": (small_spm() | {T + "scores": ["a"] * 269}, FormatError, "not a number"),
    "nan score": (small_spm() | {T + "scores": [float("nan")] * 269}, FormatError, "expected finite numbers"),
    "no scores": (without(small_spm(), T + "scores"), FormatError, "scores is missing"),
    "eos a string": (small_spm() | {T + "eos_token_id": "2"}, FormatError, "is '2', expected a token id"),
    "add_bos a string": (
        small_bpe() | {T + "add_bos_token": "yes"},
        FormatError,
        "'yes', expected true or false",
    ),
    "byte token misspelt": (
        small_spm() | {T + "tokens": ["<unk>", "<0xZZ>"], T + "token_type": [2, 6], T + "scores": [0.0, 0.0]},
        FormatError,
        "typed as a byte but reads b'<0xZZ>'",
    ),
    "no merges": (without(small_bpe(), T + "merges"), FormatError, "merges is missing"),
    "merges are numbers": (small_bpe() | {T + "merges": [1]}, FormatError, "merges holds a int"),
    "unknown pre": (
        small_bpe() | {T + "pre": "dream"},
        UnsupportedError,
        "'dream', which is not known; supported",
    ),
    "pre is a number": (small_bpe() | {T + "pre": 3}, FormatError, "pre is 3"),
    "empty expression": (
        small_bpe() | {"edgellm.tokenizer.pre_regexes": [""]},
        FormatError,
        "an expression of 0 characters",
    ),
    "too many expressions": (
        small_bpe() | {"edgellm.tokenizer.pre_regexes": ["a"] * 100},
        FormatError,
        "has 100 entries, at most 32",
    ),
    "unknown normalizer": (
        small_bpe() | {"edgellm.tokenizer.normalizer": ["rot13"]},
        UnsupportedError,
        "'rot13', supported are NFC",
    ),
    "strip ids out of range": (
        small_bpe() | {"edgellm.tokenizer.rstrip_ids": [9999]},
        FormatError,
        "rstrip_ids holds 9999",
    ),
    "bert without unk": (
        {T + "model": "bert", T + "tokens": ["a"]},
        FormatError,
        "unknown_token_id is missing",
    ),
    "bad charsmap": (
        small_spm() | {T + "model": "t5", T + "precompiled_charsmap": [255, 255, 255, 127, 0]},
        FormatError,
        "shorter than it says",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_damage_is_refused_with_a_sentence(name: str) -> None:
    metadata, error, sentence = REFUSED[name]
    with pytest.raises(error, match=re.escape(sentence)) as caught:
        make(metadata)
    assert len(str(caught.value)) < 2500


def test_merges_that_name_missing_tokens() -> None:
    subject = make(small_bpe() | {T + "merges": ["a b", "c d"]})
    assert subject.decode(subject.encode("ab")) == "ab"
    with pytest.raises(ModelError, match="merges makes 'cd', which is not in"):
        subject.encode("cd")
    with pytest.raises(ModelError, match="merges holds 'c d'"):
        subject.check()
    make(small_bpe()).check()


def test_malformed_merges_are_never_applied() -> None:
    subject = make(small_bpe() | {T + "merges": ["", " ", "ab", "a  b", "a b c", "\x00 \x00"]})
    assert subject.decode(subject.encode("ab a  b \x00\x00")) == "ab a  b \x00\x00"


def test_the_first_of_two_equal_merges_counts() -> None:
    tokens = small_bpe()[T + "tokens"]
    assert isinstance(tokens, list)
    tokens = [*tokens, "bc"]
    metadata = small_bpe() | {T + "tokens": tokens, T + "token_type": [1] * 257 + [3, 1]}
    subject = make(metadata | {T + "merges": ["a b", "b c", "a b"]})
    assert [subject.token_text(token) for token in subject.encode("abc")] == ["ab", "c"]


def test_a_million_merges_and_tokens_are_read_in_seconds() -> None:
    n = 1_000_000
    tokens = small_bpe()[T + "tokens"]
    assert isinstance(tokens, list)
    metadata: dict[str, object] = {
        T + "model": "gpt2",
        T + "pre": "gpt-2",
        T + "tokens": tokens + [f"t{i}" for i in range(n)],
        T + "merges": [f"a{i} b{i}" for i in range(n)],
    }
    start = time.perf_counter()
    subject = make(metadata)
    assert subject.decode(subject.encode("Hello")) == "Hello"
    assert time.perf_counter() - start < 20


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "ab" * 50_000, "\n" * 100_000, " " * 100_000, "<" * 100_000, "é" * 50_000]
)
@pytest.mark.parametrize("make_metadata", [small_spm, small_bpe])
def test_long_monotonous_texts(make_metadata: object, text: str) -> None:
    assert callable(make_metadata)
    metadata = make_metadata() | {"tokenizer.ggml.add_space_prefix": False}
    subject = make(metadata)
    start = time.perf_counter()
    assert subject.decode(subject.encode(text)) == text
    assert time.perf_counter() - start < 20


def test_thousands_of_special_tokens_that_almost_match() -> None:
    n = 250
    tokens = ["<unk>", "<", "a", *("<" * length + "!" for length in range(1, n))]
    types = [2, 1, 1] + [4] * (n - 1)
    subject = make(
        {
            T + "model": "llama",
            T + "tokens": tokens,
            T + "token_type": types,
            T + "scores": [0.0] * len(tokens),
        }
        | {T + "add_bos_token": False, T + "add_space_prefix": False}
    )
    text = "<" * 10_000 + "a"
    start = time.perf_counter()
    assert subject.decode(subject.encode(text)) == text
    assert time.perf_counter() - start < 20


def test_hostile_expressions_of_a_file_end() -> None:
    subject = make(small_bpe() | {"edgellm.tokenizer.pre_regexes": ["(a+)+b"]})
    start = time.perf_counter()
    with pytest.raises(ModelError, match="takes too many steps on a text of 40 characters"):
        subject.encode("a" * 40)
    assert time.perf_counter() - start < 60
    with pytest.raises(ModelError, match=r"without its \)"):
        make(small_bpe() | {"edgellm.tokenizer.pre_regexes": ["(unclosed"]}).encode("a")


def test_expressions_of_a_file_cut_the_text() -> None:
    subject = make(small_bpe() | {"edgellm.tokenizer.pre_regexes": ["a"]})
    assert [subject.token_text(token) for token in subject.encode("ab")] == ["a", "b"]
    subject = make(
        small_bpe()
        | {
            "edgellm.tokenizer.pre_regexes": [r"\S+"],
            "edgellm.tokenizer.ignore_merges": True,
            T + "merges": [],
        }
    )
    assert [subject.token_text(token) for token in subject.encode("ab")] == ["ab"]


def test_utf8_bpe_falls_back_to_bytes() -> None:
    tokens = [*BYTE_TOKENS, "\u2581", "a", "\u2581a"]
    subject = make(
        {
            T + "model": "gpt2",
            T + "tokens": tokens,
            T + "token_type": [6] * 256 + [1] * 3,
            T + "merges": ["\u2581 a"],
            "edgellm.tokenizer.pre_regexes": ["[^\\n]+|\\n+"],
            "edgellm.tokenizer.byte_level": False,
        }
    )
    ids = subject.encode(" a é\n")
    assert [subject.token_text(token) for token in ids] == ["\u2581a", "\u2581", "<0xC3>", "<0xA9>", "<0x0A>"]
    assert subject.decode(ids) == " a é\n"


def test_normal_forms() -> None:
    subject = make(small_bpe() | {"edgellm.tokenizer.normalizer": ["NFC"]})
    assert subject.decode(subject.encode("e\u0301")) == "\u00e9"


def test_a_missing_pre_tokenizer_is_a_warning() -> None:
    subject = make(without(small_bpe(), T + "pre"))
    assert len(subject.warnings) == 1
    assert "tokenizer.ggml.pre is missing" in subject.warnings[0]
    assert make(small_bpe()).warnings == ()


@pytest.mark.parametrize("name", ["bos", "eos", "padding", "unknown", "seperator", "mask", "eot"])
@pytest.mark.parametrize("value", [-1, 269, 2**32 - 1])
def test_ids_that_are_no_tokens_are_warnings(name: str, value: int) -> None:
    subject = make(small_spm() | {f"{T}{name}_token_id": value})
    assert subject.warnings == (
        f"tokenizer.ggml.{name}_token_id is {value}, expected a token id from 0 to 268: it is ignored",
    )
    assert subject.encode("a") == make(small_spm()).encode("a")
    assert subject.eog_ids == make(small_spm()).eog_ids


@pytest.mark.parametrize("name", ["bos", "eos"])
def test_a_flag_without_its_token_adds_nothing(name: str) -> None:
    subject = make(small_bpe() | {f"{T}add_{name}_token": True})
    assert subject.encode("ab") == make(small_bpe()).encode("ab")
    assert "does not say which" in subject.warnings[0]


def test_tokens_around_a_text_by_list() -> None:
    keys = {"edgellm.tokenizer.before_ids": [3, 4], "edgellm.tokenizer.after_ids": [5]}
    subject = make(small_spm() | keys)
    assert subject.encode("a") == [3, 4, *subject.encode("a", add_special=False), 5]
    assert not subject.adds_bos
    with pytest.raises(FormatError, match="before_ids holds 269"):
        make(small_spm() | {"edgellm.tokenizer.before_ids": [269]})


def test_schemes_of_the_space_before_a_text() -> None:
    with pytest.raises(UnsupportedError, match="'never', supported are always and first"):
        make(small_spm() | {"edgellm.tokenizer.prepend_scheme": "never"})
    subject = make(small_spm() | {"edgellm.tokenizer.prepend_scheme": "first"})
    texts = {text: subject.encode(text, parse_special=True) for text in ("a", " a", "<s>a", "<s> a")}
    assert texts["a"] == texts[" a"] == [1, 263]
    assert [ids[2:] for ids in (texts["<s>a"], texts["<s> a"])] == [[260], [263]]


def test_ends_by_list() -> None:
    subject = make(small_spm() | {"edgellm.tokenizer.eog_ids": [4, 5, 6, 7]})
    assert {4, 5, 6, 7} <= subject.eog_ids
    with pytest.raises(FormatError, match="eog_ids holds 300"):
        make(small_spm() | {"edgellm.tokenizer.eog_ids": [300]})


def test_empty_tokens_are_never_made() -> None:
    subject = make(small_bpe() | {T + "tokens": ["a", "", "b", "", "ab"], T + "token_type": [1, 3, 1, 1, 1]})
    assert subject.encode("ab") == [4]
    assert subject.token_bytes(1) == b""


def test_text_without_tokens() -> None:
    spm = {
        T + "model": "llama",
        T + "tokens": ["<unk>", "a"],
        T + "scores": [0.0, 0.0],
        T + "add_bos_token": False,
    }
    subject = make(spm | {T + "token_type": [2, 1], T + "add_space_prefix": False})
    assert subject.encode("ab") == [1, 0]


def test_end_of_generation_tokens() -> None:
    def ends(tokens: list[str], types: list[int], **keys: object) -> set[str]:
        metadata = {T + "model": "gpt2", T + "pre": "gpt-2", T + "merges": [], T + "tokens": tokens}
        subject = make(metadata | {T + "token_type": types} | {T + key: value for key, value in keys.items()})
        return {subject.token_text(token) for token in subject.eog_ids}

    assert ends(["a", "<|im_end|>", "<|im_start|>"], [1, 3, 3]) == {"<|im_end|>"}
    assert ends(["a", "<|im_end|>", "b"], [1, 1, 1], eos_token_id=2) == {"<|im_end|>", "b"}
    assert ends(["a", "</s>"], [1, 1]) == set()
    assert ends(["a", "</s>"], [1, 3]) == {"</s>"}
    assert ends(["<|end|>", "<|return|>", "<|call|>"], [3, 3, 3]) == {"<|return|>", "<|call|>"}
    assert ends(["a", "b", "c"], [1, 1, 1], eot_token_id=1, eom_token_id=2) == {"b", "c"}


def test_ids_outside_the_vocabulary() -> None:
    subject = make(small_spm())
    for token in (-1, 269):
        with pytest.raises(IndexError, match="outside the vocabulary of 269 tokens"):
            subject.token_bytes(token)
    assert subject.n_vocab == 269
