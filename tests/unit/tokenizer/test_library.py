"""WordPiece and Unigram from GGUF metadata, against the libraries that define them."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
import sentencepiece
import tokenizers

from edgellm.errors import EdgeLLMError
from edgellm.tokenizer import Tokenizer
from tests.contract.test_tokenizers import random_texts

SPACE = "\u2581"


def word_piece_metadata(pieces: dict[str, int]) -> dict[str, object]:
    """The metadata that a converter writes for BERT's vocabulary."""
    tokens = [""] * len(pieces)
    for text, token in pieces.items():
        special = text.startswith("[") and text.endswith("]")
        tokens[token] = text if special else text[2:] if text.startswith("##") else SPACE + text
    names = {"bos": "[CLS]", "unknown": "[UNK]", "seperator": "[SEP]", "padding": "[PAD]", "mask": "[MASK]"}
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [
            3 if text.startswith("[") and text.endswith("]") else 1 for text in tokens
        ],
        **{f"tokenizer.ggml.{name}_token_id": pieces[text] for name, text in names.items() if text in pieces},
    }


def test_word_piece() -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##a", "##b", "##ab", "cafe", "!", "中"]
    subject = Tokenizer.from_metadata(
        word_piece_metadata({text: token for token, text in enumerate(pieces)})  # type: ignore[arg-type]
    )
    ids = subject.encode("AbaB  Café!中 xyz [MASK]", parse_special=True)
    shown = [subject.token_text(token) for token in ids]
    assert shown == ["[CLS]", "▁a", "b", "ab", "▁cafe", "▁!", "▁中", "[UNK]", "[MASK]", "[SEP]"]
    assert subject.decode(subject.encode("aba cafe")) == "aba cafe"
    assert subject.encode("b" * 101, add_special=False) == [subject.token_id("[UNK]")]


@pytest.mark.parametrize("lowercase", [True, False])
def test_words_of_ascii_are_split_as_bert_splits_them(lowercase: bool) -> None:
    letters = "abcXYZ019"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    pieces += ["ab", "##Z0", *(chr(code) for code in range(33, 127) if not chr(code).isalnum())]
    vocabulary = {text: token for token, text in enumerate(pieces)}
    metadata = word_piece_metadata(vocabulary) | {"tokenizer.ggml.normalizer.lowercase": lowercase}
    subject = Tokenizer.from_metadata(metadata)  # type: ignore[arg-type]
    reference = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    reference.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase)
    reference.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    rng = random.Random(5)
    signs = [chr(code) for code in range(1, 128)] + list(letters) * 9 + [" "] * 30
    for _ in range(2000):
        text = "".join(rng.choices(signs, k=rng.randrange(40)))
        expected = reference.encode(text, add_special_tokens=False).ids
        assert subject.encode(text, add_special=False) == expected, text


def test_minilm_agrees_with_its_own_tokenizer(minilm: Path) -> None:
    reference = tokenizers.Tokenizer.from_file(str(minilm / "tokenizer.json"))
    reference.no_truncation()
    reference.no_padding()
    subject = Tokenizer.from_metadata(word_piece_metadata(reference.get_vocab()))  # type: ignore[arg-type]
    for text in random_texts(11, 3000):
        assert subject.encode(text) == reference.encode(text).ids, text


def train_unigram() -> bytes:
    rng = random.Random(0)
    words = [
        "the",
        "Hello",
        "don't",
        "running",
        "Ünïcödé",
        "мир",
        "日本語",
        "한국",
        "123",
        "ﬁne",
        "é",
        "½",
        "!",
        "(",
        ")",
    ]
    corpus = [" ".join(rng.choice(words) for _ in range(8)) for _ in range(400)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus),
        model_writer=model,
        vocab_size=90,
        model_type="unigram",
        hard_vocab_limit=False,
        minloglevel=2,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
    )
    return model.getvalue()


def charsmap_of(model: bytes) -> bytes:
    """The normalizer's precompiled_charsmap: field 2 of field 3 of the ModelProto."""

    def fields(data: bytes) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        position = 0

        def varint() -> int:
            nonlocal position
            value = shift = 0
            while True:
                byte = data[position]
                position += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    return value

        while position < len(data):
            key = varint()
            if key & 7 == 2:
                size = varint()
                found[key >> 3] = data[position : position + size]
                position += size
            elif key & 7 == 0:
                varint()
            else:
                position += {1: 8, 5: 4}[key & 7]
        return found

    return fields(fields(model)[3])[2]


def test_unigram_agrees_with_sentencepiece() -> None:
    model = train_unigram()
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    n_vocab = reference.get_piece_size()
    subject = Tokenizer.from_metadata(
        {
            "tokenizer.ggml.model": "t5",
            "tokenizer.ggml.tokens": [reference.id_to_piece(i) for i in range(n_vocab)],
            "tokenizer.ggml.scores": [reference.get_score(i) for i in range(n_vocab)],
            "tokenizer.ggml.token_type": [3, 3, 2] + [1] * (n_vocab - 3),
            "tokenizer.ggml.precompiled_charsmap": list(charsmap_of(model)),
        }
    )
    rng = random.Random(1)
    parts = [
        "the",
        "Hello ",
        "  run",
        "ning",
        "ﬁ",
        "½ ",
        "мир",
        "日本",
        "é",
        "123",
        "!",
        "(x)",
        "\u3000",
        "\t",
        "Ⅷ",
    ]
    for _ in range(2000):
        text = "".join(rng.choice(parts) for _ in range(rng.randrange(1, 10)))
        assert subject.encode(text) == [*reference.encode(text), 1], text
    assert subject.decode(subject.encode("Hello the running")) == "Hello the running"


def test_damaged_charsmaps_do_not_crash() -> None:
    charsmap = charsmap_of(train_unigram())
    rng = random.Random(3)
    outcomes = set()
    for _ in range(40):
        damaged = bytearray(charsmap)
        for _ in range(rng.choice((1, 100, 5000))):
            damaged[rng.randrange(4, len(damaged))] = rng.randrange(256)
        metadata: dict[str, object] = {
            "tokenizer.ggml.model": "t5",
            "tokenizer.ggml.tokens": ["<pad>", "</s>", "<unk>", SPACE, "a"],
            "tokenizer.ggml.scores": [0.0, 0.0, 0.0, -1.0, -2.0],
            "tokenizer.ggml.token_type": [3, 3, 2, 1, 1],
            "tokenizer.ggml.precompiled_charsmap": list(damaged),
        }
        outcomes.add(outcome(metadata))
    assert outcomes <= {"encoded", "FormatError", "ModelError"}
    assert {"encoded", "FormatError"} <= outcomes


def outcome(metadata: dict[str, object]) -> str:
    try:
        subject = Tokenizer.from_metadata(metadata)  # type: ignore[arg-type]
        for text in ("a é ½ 日本 ﬁ", " hello", "Ⅷ\u3000" * 5):
            subject.encode(text)
    except EdgeLLMError as error:
        return type(error).__name__
    return "encoded"
