"""The vocabularies under tests/data/tokenizers, and small ones made up for a test."""

from __future__ import annotations

import lzma
import tempfile
from functools import cache
from pathlib import Path

from edgellm.gguf.reader import GGUFFile
from edgellm.tokenizer import Tokenizer

FOLDER = Path(__file__).resolve().parents[1] / "data" / "tokenizers"
NAMES = ("gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2")
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


@cache
def vocabulary_metadata(name: str) -> dict[str, object]:
    """The tokenizer metadata of tests/data/tokenizers/NAME.gguf.xz."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.gguf"
        path.write_bytes(lzma.decompress((FOLDER / f"{name}.gguf.xz").read_bytes()))
        return file_metadata(path)


def file_metadata(path: Path) -> dict[str, object]:
    """The metadata of a GGUF file that a tokenizer may look at."""
    with GGUFFile.open(path) as file:
        keys = [key for key in file.metadata if key.startswith(("tokenizer.", "edgellm.", "general."))]
        return {key: file.metadata[key] for key in keys}


@cache
def tokenizer(name: str) -> Tokenizer:
    """The tokenizer of tests/data/tokenizers/NAME.gguf.xz."""
    return Tokenizer.from_metadata(vocabulary_metadata(name))  # type: ignore[arg-type]


def reference_cases(name: str) -> list[tuple[str, list[int]]]:
    """The strings and the ids that llama.cpp's vocabulary tests expect for them, without added tokens."""
    texts = (FOLDER / "strings.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = (FOLDER / f"{name}.out").read_text().split("\n")
    return [(text, [int(number) for number in line.split()]) for text, line in zip(texts, lines, strict=True)]


def small_spm(**changes: object) -> dict[str, object]:
    """A SentencePiece vocabulary of control tokens, bytes and a few words; `a_b` in a keyword is `a.b`."""
    words = ["\u2581", "a", "b", "ab", "\u2581a", "\u2581ab", "<|user|>", "<b>", "\n\n", "<|im_end|>"]
    tokens = ["<unk>", "<s>", "</s>", *BYTE_TOKENS, *words]
    n_words = len(words)
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(n_words)],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * 6 + [4, 4, 4, 3],
    }
    return metadata | changes


def small_bpe(**changes: object) -> dict[str, object]:
    """A byte-level vocabulary of all bytes, one merge and one control token."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = [chr(code) for code in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    metadata: dict[str, object] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [*alphabet, "ab", "<|im_end|>"],
        "tokenizer.ggml.token_type": [1] * 257 + [3],
        "tokenizer.ggml.merges": ["a b"],
    }
    return metadata | changes
