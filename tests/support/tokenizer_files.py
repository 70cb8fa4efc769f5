"""Small tokenizers as checkpoints hold them, trained on the bundled text."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.vocabulary import sample_lines, tokenizer_metadata
from edgellm.tokenizer import Tokenizer
from edgellm.tokenizer.alphabet import CHAR_TO_BYTE
from tests.support.checkpoints import write_checkpoint

SPACE = "\u2581"
SPECIALS = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
TEXTS = (
    "Hello world", " leading", "  two  spaces ", "\u2581mark", "a\u2581b", "", " ", "Ünïcödé İstanbul ﬁ ½",
    "<s>[INST] the word[/INST]the </s>", "the[INST]  the\n[/INST] the", "日本語 текст", "it's 12345 Don'T!",
    "snake_case camelCase", "tab\tand\nline", "``quoted'' (text)",
)  # fmt: skip


def added(token: int, text: str, **changes: Any) -> dict[str, Any]:
    """An entry of added_tokens."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": text, "special": True} | flags | changes


@cache
def sentencepiece_model(kind: str = "bpe") -> bytes:
    """A SentencePiece model with byte tokens, as Llama's is."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for line in sample_lines() if line] * 4),
        model_writer=written,
        model_type=kind,
        vocab_size=600,
        minloglevel=2,
        byte_fallback=True,
        character_coverage=0.98,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
    )
    return written.getvalue()


@cache
def _pieces(kind: str) -> tuple[tuple[str, float], ...]:
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model(kind))
    return tuple((model.id_to_piece(i), model.get_score(i)) for i in range(model.get_piece_size()))


def sentencepiece_json(**changes: Any) -> dict[str, Any]:
    """The byte-pair model as tokenizer.json, merges in the order of scores, and two more control tokens."""
    pieces = _pieces("bpe")
    vocab = {text: token for token, (text, _) in enumerate(pieces)}
    merges = [
        (-score, text[:k], text[k:])
        for text, score in pieces
        if not text.startswith("<")
        for k in range(1, len(text))
        if text[:k] in vocab and text[k:] in vocab
    ]
    more = [added(len(vocab) + i, text) for i, text in enumerate(SPECIALS[3:])]
    model = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": vocab}
    model["merges"] = [[left, right] for _, left, right in sorted(merges)]
    tokens = [*(added(i, text) for i, text in enumerate(SPECIALS[:3])), *more]
    found = {"version": "1.0", "added_tokens": tokens, "normalizer": None, "pre_tokenizer": None}
    return found | {"post_processor": None, "decoder": None, "model": model} | changes


def unigram_json(**changes: Any) -> dict[str, Any]:
    """A Unigram model as tokenizer.json."""
    pieces = [[text, score] for text, score in _pieces("unigram")]
    tokens = [added(i, text) for i, text in enumerate(SPECIALS[:3])]
    tokens += [added(len(pieces) + i, text) for i, text in enumerate(SPECIALS[3:])]
    found = {"version": "1.0", "added_tokens": tokens, "normalizer": None, "pre_tokenizer": None}
    model = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": True}
    return found | {"post_processor": None, "decoder": None, "model": model} | changes


def trained_json(
    kind: str, normalizer: Any, pre_tokenizer: Any, *, all_bytes: bool = False
) -> dict[str, Any]:
    """A BPE or WordPiece tokenizer of the `tokenizers` library with these steps, trained on the text.

    all_bytes: all of GPT-2's alphabet are tokens.
    """
    from tokenizers import Tokenizer as Library
    from tokenizers import models, trainers

    empty = {"version": "1.0", "added_tokens": [], "normalizer": normalizer, "pre_tokenizer": pre_tokenizer}
    empty |= {"model": {"type": "BPE", "vocab": {}, "merges": []}}
    library = Library.from_str(json.dumps(empty))
    library.model = getattr(models, kind)(unk_token="<unk>")
    trainer = getattr(trainers, {"BPE": "BpeTrainer"}.get(kind, f"{kind}Trainer"))(
        vocab_size=600,
        special_tokens=list(SPECIALS),
        show_progress=False,
        initial_alphabet=list(CHAR_TO_BYTE) if all_bytes else [],
    )
    library.train_from_iterator(sample_lines(), trainer)
    made: dict[str, Any] = json.loads(library.to_str())
    return made


def write_tokenizer(
    folder: Path, source: Mapping[str, Any] | None, settings: Mapping[str, Any] | None = None
) -> Path:
    """A checkpoint with this tokenizer.json, or none, and this tokenizer_config.json."""
    write_checkpoint(folder)
    (folder / "tokenizer.json").unlink()
    if source is not None:
        (folder / "tokenizer.json").write_text(json.dumps(source))
    usual = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(usual if settings is None else dict(settings)))
    return folder


def metadata_of(folder: Path, n_vocab: int = 800) -> dict[str, Any]:
    """The metadata that a conversion of the folder writes."""
    return {key: pair.value for key, pair in tokenizer_metadata(Checkpoint(folder), n_vocab).items()}


def differences(
    metadata: Mapping[str, Any], source: Mapping[str, Any], texts: Sequence[str] = TEXTS
) -> list[Any]:
    """The texts, and ids, where the metadata gives others than the `tokenizers` library."""
    from tokenizers import Tokenizer as Library

    library = Library.from_str(json.dumps(source))
    subject = Tokenizer.from_metadata(metadata)
    found = []
    for text in texts:
        expected = library.encode(text, add_special_tokens=False).ids
        got = subject.encode(text, add_special=False, parse_special=True)
        if got != expected:
            found.append((text, got, expected))
    return found
