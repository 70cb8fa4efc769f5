"""Tokenizers in files other than tokenizer.json."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from edgellm.convert.vocabulary import sample_lines
from edgellm.errors import EdgeLLMError, FileError, FormatError, UnsupportedError
from edgellm.tokenizer import Tokenizer
from edgellm.tokenizer.pre_names import PRE_TOKENIZERS
from tests.support.checkpoints import tokenizer_json
from tests.support.tokenizer_files import TEXTS, differences, metadata_of, trained_json, write_tokenizer

pytest.importorskip("edgellm._native", reason="needs the built extension module")

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def _decoder(source: dict[str, Any]) -> dict[str, Any]:
    return {str(entry["id"]): entry for entry in source["added_tokens"]}


@pytest.mark.parametrize(
    "name", ["Qwen2Tokenizer", "Qwen2TokenizerFast", "GPT2Tokenizer", "RobertaTokenizerFast"]
)
@pytest.mark.parametrize("header", ["#version: 0.2\n", ""])
def test_vocab_and_merges(name: str, header: str, tmp_path: Path) -> None:
    source = tokenizer_json()
    settings = {"tokenizer_class": name, "eos_token": "</s>", "added_tokens_decoder": _decoder(source)}
    write_tokenizer(tmp_path, None, settings)
    (tmp_path / "vocab.json").write_text(json.dumps(source["model"]["vocab"]))
    lines = [" ".join(merge) for merge in source["model"]["merges"]]
    (tmp_path / "merges.txt").write_text(header + "\n".join(lines) + "\n")
    if name.startswith("Qwen2"):
        rule: dict[str, Any] = {"type": "Split", "pattern": {"Regex": PRE_TOKENIZERS["qwen2"].rules[0]}}
        rule |= {"behavior": "Isolated", "invert": False}
        source["pre_tokenizer"] = {
            "type": "Sequence",
            "pretokenizers": [rule, BYTE_LEVEL | {"use_regex": False}],
        }
        source["normalizer"] = {"type": "NFC"}
    metadata = metadata_of(tmp_path)
    assert metadata["tokenizer.ggml.pre"] == ("qwen2" if name.startswith("Qwen2") else "gpt-2")
    assert not differences(metadata, source)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(FileError, match=r"merges\.txt: the file is missing"):
        metadata_of(tmp_path)


@pytest.mark.parametrize("lowercase", [True, False])
def test_vocab_txt(lowercase: bool, tmp_path: Path) -> None:
    normalizer = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
    normalizer |= {"strip_accents": None, "lowercase": lowercase}
    source = trained_json("WordPiece", normalizer, {"type": "BertPreTokenizer"})
    vocab = source["model"]["vocab"]
    texts = [
        text.replace("<unk>", "[UNK]").replace("<s>", "[CLS]").replace("</s>", "[SEP]") for text in vocab
    ]
    source["model"] |= {"vocab": {text: i for i, text in enumerate(texts)}, "unk_token": "[UNK]"}
    for entry in source["added_tokens"][:3]:
        entry["content"] = texts[entry["id"]]
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": lowercase, "cls_token": "[CLS]"}
    settings |= {"sep_token": "[SEP]", "unk_token": "[UNK]", "added_tokens_decoder": _decoder(source)}
    write_tokenizer(tmp_path, None, settings)
    (tmp_path / "vocab.txt").write_text("".join(f"{text}\n" for text in texts))
    metadata = metadata_of(tmp_path)
    assert not differences(metadata, source)
    assert Tokenizer.from_metadata(metadata).encode("") == [texts.index("[CLS]"), texts.index("[SEP]")]


def tekken(pattern: str = r"\w+|[^\w\s]+|\s+") -> tuple[dict[str, Any], dict[bytes, int]]:
    """Mistral's file, and the byte strings by rank."""
    words = {word.encode() for line in sample_lines() for word in line.split()}
    starts = {word[:n] for word in words for n in range(2, 6) if len(word) >= n}
    tokens = [bytes([byte]) for byte in range(256)] + sorted(starts, key=lambda word: (len(word), word))
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for rank, token in enumerate(tokens)
    ]
    names = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
    specials = [{"rank": i, "token_str": name, "is_control": True} for i, name in enumerate(names)]
    config = {"pattern": pattern, "default_num_special_tokens": 8, "num_vocab_tokens": len(tokens)}
    config |= {"default_vocab_size": 8 + len(tokens), "version": "v3"}
    return {"config": config, "vocab": vocab, "special_tokens": specials}, {
        t: i for i, t in enumerate(tokens)
    }


def merged(piece: bytes, ranks: dict[bytes, int]) -> list[int]:
    """tiktoken's byte-pair encoding: the pair that makes the token of the lowest rank merges first."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 1:
        pairs = [ranks.get(parts[i] + parts[i + 1], 1 << 60) for i in range(len(parts) - 1)]
        lowest = min(pairs)
        if lowest == 1 << 60:
            break
        at = pairs.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return [ranks[part] for part in parts]


def test_tekken(tmp_path: Path) -> None:
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    source, ranks = tekken()
    settings = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    (write_tokenizer(tmp_path, None, settings) / "tekken.json").write_text(json.dumps(source))
    subject = Tokenizer.from_metadata(metadata_of(tmp_path, 1500))
    split = Split(Regex(source["config"]["pattern"]), "isolated")
    for text in (*TEXTS, *sample_lines()):
        pieces = [piece.encode() for piece, _ in split.pre_tokenize_str(text)]
        expected = [8 + rank for p in pieces for rank in ([ranks[p]] if p in ranks else merged(p, ranks))]
        assert subject.encode(text, add_special=False) == expected, text
        assert subject.decode([8 + rank for rank in merged(text.encode(), ranks)]) == text
    assert subject.encode("a[INST]", parse_special=True)[:1] == [1]
    assert subject.encode("[INST]", add_special=False, parse_special=True) == [3]
    assert subject.token_text(7) == "<SPECIAL_7>"


REFUSED: dict[str, tuple[dict[str, Any], type[EdgeLLMError], str]] = {
    "class": ({"vocab.json": {"a": 0}}, UnsupportedError, "'NoneTokenizer'.*supported are Qwen2"),
    "vocab.txt": ({"vocab.txt": "a\n"}, UnsupportedError, "supported are Bert"),
    "tiktoken": ({"qwen.tiktoken": "IQ== 0\n"}, UnsupportedError, "own code"),
    "own code": ({"tokenization_my.py": ""}, UnsupportedError, "own code"),
    "tekken": ({"tekken.json": {"vocab": []}}, FormatError, "missing or malformed"),
    "tekken base64": (
        {"tekken.json": {"config": {"pattern": "a", "default_num_special_tokens": 1},
                         "vocab": [{"rank": 0, "token_bytes": "abc"}]}},
        FormatError, "missing or malformed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    files, error, message = REFUSED[name]
    write_tokenizer(tmp_path, None, {"tokenizer_class": "NoneTokenizer"})
    for file, content in {"merges.txt": "a b\n", **files}.items():
        (tmp_path / file).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(error, match=message):
        metadata_of(tmp_path)
