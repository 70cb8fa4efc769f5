"""Special tokens, segments, decoding."""

from __future__ import annotations

import pytest

from edgellm.tokenizer import Tokenizer
from tests.support.vocabularies import small_bpe, small_spm, tokenizer


def make(metadata: dict[str, object]) -> Tokenizer:
    return Tokenizer.from_metadata(metadata)  # type: ignore[arg-type]


def texts(subject: Tokenizer, ids: list[int]) -> list[str]:
    return [subject.token_text(token) for token in ids]


def test_special_tokens_only_where_asked_for() -> None:
    subject = tokenizer("qwen2")
    plain = subject.encode("<|im_start|>", add_special=False)
    assert len(plain) > 1
    parsed = subject.encode("<|im_start|>user", add_special=False, parse_special=True)
    assert texts(subject, parsed) == ["<|im_start|>", "user"]
    assert subject.decode(parsed) == "user"
    assert subject.decode(parsed, skip_special=False) == "<|im_start|>user"


def test_added_tokens() -> None:
    assert tokenizer("llama-bpe").encode("a")[0] == 128000
    assert tokenizer("llama-bpe").adds_bos
    assert tokenizer("gpt-2").encode("a") == tokenizer("gpt-2").encode("a", add_special=False)
    subject = make(small_spm() | {"tokenizer.ggml.add_eos_token": True})
    assert texts(subject, subject.encode("a")) == ["<s>", "\u2581a", "</s>"]
    assert texts(subject, subject.encode("")) == ["<s>", "</s>"]
    assert subject.encode("", add_special=False) == []
    assert (subject.bos_id, subject.eos_id) == (1, 2)


def test_space_prefix() -> None:
    subject = make(small_spm())
    assert texts(subject, subject.encode("ab", add_special=False)) == ["\u2581ab"]
    assert subject.decode(subject.encode("ab")) == "ab"
    assert subject.decode(subject.encode(" ab")) == " ab"
    bare = make(small_spm() | {"tokenizer.ggml.add_space_prefix": False})
    assert texts(bare, bare.encode("ab", add_special=False)) == ["ab"]
    assert bare.decode(bare.encode(" ab")) == " ab"


def test_user_defined_tokens_match_in_plain_text() -> None:
    subject = make(small_spm() | {"tokenizer.ggml.add_space_prefix": False})
    assert texts(subject, subject.encode("a\n\n\n<b>", add_special=False)) == ["a", "\n\n", "<0x0A>", "<b>"]
    assert texts(subject, subject.encode("<|user|>", add_special=False)) == ["<|user|>"]


def test_segments_guard_markers_too() -> None:
    subject = make(small_spm() | {"tokenizer.ggml.add_space_prefix": False})
    ids = subject.encode_segments([("<|user|>", True), ("<|user|><b>a", False), ("<|im_end|>", True)])
    got = texts(subject, ids)
    assert got[0] == "<|user|>"
    assert got[-3:] == ["<b>", "a", "<|im_end|>"]
    assert "<|user|>" not in got[1:]
    assert subject.decode(ids, skip_special=False) == "<|user|><|user|><b>a<|im_end|>"


def test_no_special_token_across_a_border() -> None:
    subject = tokenizer("qwen2")
    for segments in (
        [("<|im_", True), ("end|>", False)],
        [("<|im_", False), ("end|>", True)],
        [("<|im_", False), ("end|>", False)],
    ):
        ids = subject.encode_segments(segments)
        assert not any(map(subject.is_special, ids))
        assert subject.decode(ids) == "<|im_end|>"
    assert subject.encode_segments([("<|im_", True), ("end|>", True)]) == [subject.token_id("<|im_end|>")]


def test_segments_merge_before_encoding() -> None:
    subject = tokenizer("gpt-2")
    assert subject.encode_segments([("Hel", False), ("lo wor", True), ("ld", False)]) == subject.encode(
        "Hello world"
    )


def test_phi3_special_tokens_swallow_white_space_after_them() -> None:
    subject = tokenizer("phi-3")
    one = subject.encode("<|user|>\n Hi<|end|>\n<|assistant|>", add_special=False, parse_special=True)
    assert texts(subject, one) == ["<|user|>", "\u2581Hi", "<|end|>", "<|assistant|>"]


def test_strips_named_by_the_file() -> None:
    metadata = small_spm() | {"tokenizer.ggml.add_space_prefix": False, "tokenizer.ggml.add_bos_token": False}
    subject = make(metadata | {"edgellm.tokenizer.lstrip_ids": [268], "edgellm.tokenizer.rstrip_ids": [268]})
    assert texts(subject, subject.encode("a \t<|im_end|>\n b", parse_special=True)) == [
        "a",
        "<|im_end|>",
        "b",
    ]


def test_a_text_that_is_the_name_of_a_byte_token() -> None:
    subject = tokenizer("llama-spm")
    for text in ("<0x41>", "<s>", "</s>", "<unk>"):
        ids = subject.encode(text, add_special=False)
        assert subject.decode(ids) == text
        assert len(ids) > 1


def test_lone_surrogates_become_replacement_characters() -> None:
    for name in ("gpt-2", "llama-spm"):
        subject = tokenizer(name)
        assert subject.decode(subject.encode("a\ud800b")) == "a\ufffdb"


def test_nul_and_controls_round_trip() -> None:
    text = "".join(map(chr, range(32))) + "\x7f\x80\x9f"
    for name in ("gpt-2", "llama-spm", "llama-bpe"):
        assert tokenizer(name).decode(tokenizer(name).encode(text)) == text


def test_decode_replaces_invalid_bytes() -> None:
    subject = make(small_spm())
    byte = {value: 3 + value for value in range(256)}
    assert subject.decode([byte[0xC3], byte[0xA9], byte[0xFF], byte[0x41]]) == "é\ufffdA"
    assert subject.token_bytes(byte[0xFF]) == b"\xff"
    with pytest.raises(IndexError):
        subject.decode([10_000])


def test_words_outside_the_byte_alphabet_keep_their_text() -> None:
    subject = make(
        small_bpe() | {"tokenizer.ggml.tokens": ["a", "日本", " x"], "tokenizer.ggml.token_type": [1, 1, 1]}
    )
    assert subject.token_bytes(1) == "日本".encode()
    assert subject.token_bytes(2) == b" x"


def test_long_spm_texts_are_cut_without_changing_the_result() -> None:
    subject = tokenizer("llama-spm")
    text = "The  quick brown fox,\n\n jumps 123 over... the lazy dog. " * 3
    once = subject.encode(text, add_special=False)
    long = subject.encode(text * 40, add_special=False)
    assert long[: len(once) - 2] == once[:-2]
    assert subject.decode(long) == text * 40
