"""Tokenizers in files other than tokenizer.json, as the tokenizer.json that transformers makes of them.

vocab.json with merges.txt (GPT-2, Qwen 2), vocab.txt (BERT), tekken.json (Mistral).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from edgellm.convert.checkpoint import Folder
from edgellm.convert.tokens import Added
from edgellm.errors import FileError, FormatError, UnsupportedError, show
from edgellm.tokenizer.alphabet import BYTE_TO_CHAR
from edgellm.tokenizer.pre_names import PRE_TOKENIZERS

_TEKKEN = "tekken.json"
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_GPT2_CLASSES = ("GPT2", "CodeGen", "Roberta", "GPTNeoX")
_BERT_CLASSES = ("Bert", "DistilBert", "Electra", "MPNet")


def read_plain(folder: Folder, settings: Mapping[str, Any], added: Mapping[int, Added]) -> dict[str, Any]:
    """The tokenizer.json of a folder that has none; FileError if it has no tokenizer at all.

    Raises UnsupportedError for files whose rules their tokenizer class alone knows.
    """
    name = str(settings.get("tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer")
    if (tekken := folder.json(_TEKKEN)) is not None:
        return _of_tekken(tekken)
    if (vocab := folder.json("vocab.json")) is not None:
        return _of_merges(folder, vocab, settings, name) | {"added_tokens": _listed(added)}
    if (lines := folder.text("vocab.txt")) is not None:
        return _of_word_pieces(lines, settings, name) | {"added_tokens": _listed(added)}
    _refuse_others(folder)
    raise FileError(
        f"{folder.folder}: expected tokenizer.json, tokenizer.model, vocab.json with merges.txt, vocab.txt "
        "or tekken.json, found none of them; download the tokenizer's files, too"
    )


def _refuse_others(folder: Folder) -> None:
    """Name a tokenizer of another kind as what it is."""
    model = folder.bytes("tokenizer.model")
    if model is not None:
        refuse_model(folder, model)
    others = [*folder.folder.glob("*.tiktoken"), *folder.folder.glob("tokenization_*.py")]
    if others:
        raise UnsupportedError(
            f"{others[0]}: a tokenizer of the checkpoint's own code, expected tokenizer.json; save it with "
            "transformers first: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )


def refuse_model(folder: Folder, model: bytes) -> None:
    """UnsupportedError for a file named tokenizer.model that is not SentencePiece's."""
    path = folder.folder / "tokenizer.model"
    if model.startswith(b"version https://git-lfs"):
        raise FormatError(f"{path}: a Git LFS pointer, expected the file itself; fetch it with git lfs pull")
    first = model.split(b"\n", 1)[0].split()
    if len(first) == 2 and first[1].isdigit():
        raise UnsupportedError(
            f"{path}: a list of tiktoken's, without the rules that cut texts; expected SentencePiece or a "
            "tokenizer.json beside it: take the checkpoint in the form of transformers"
        )


def _listed(added: Mapping[int, Added]) -> list[dict[str, Any]]:
    return [
        {"id": token, "content": entry.text, "single_word": entry.single_word, "lstrip": entry.lstrip}
        | {"rstrip": entry.rstrip, "normalized": entry.normalized, "special": entry.special}
        for token, entry in sorted(added.items())
    ]


def _of_merges(
    folder: Folder, vocab: dict[str, Any], settings: Mapping[str, Any], name: str
) -> dict[str, Any]:
    text = folder.text("merges.txt")
    if text is None:
        raise FileError(f"{folder.folder / 'merges.txt'}: the file is missing, expected beside vocab.json")
    lines = text.split("\n")
    merges = [line for line in lines[lines[0].startswith("#version") :] if line.strip()]
    prefixed = bool(settings.get("add_prefix_space"))
    normalizer: dict[str, Any] | None = None
    cut: dict[str, Any] = _BYTE_LEVEL | {"add_prefix_space": prefixed}
    if name == "Qwen2":
        normalizer = {"type": "NFC"}
        rule = {"Regex": PRE_TOKENIZERS["qwen2"].rules[0]}
        split = {"type": "Split", "pattern": rule, "behavior": "Isolated", "invert": False}
        cut = {"type": "Sequence", "pretokenizers": [split, cut | {"use_regex": False}]}
    elif name not in _GPT2_CLASSES:
        raise UnsupportedError(
            f"tokenizer_config.json: 'tokenizer_class' is {show(settings.get('tokenizer_class'))}, whose "
            f"rules vocab.json does not hold; supported are Qwen2, {', '.join(_GPT2_CLASSES)}: save the "
            "tokenizer with transformers first, which writes tokenizer.json"
        )
    model = {"type": "BPE", "vocab": vocab, "merges": merges}
    return {"version": "1.0", "normalizer": normalizer, "pre_tokenizer": cut, "model": model}


def _of_word_pieces(lines: str, settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    if name not in _BERT_CLASSES:
        raise UnsupportedError(
            f"tokenizer_config.json: 'tokenizer_class' is {show(settings.get('tokenizer_class'))}, whose "
            f"rules vocab.txt does not hold; supported are {', '.join(_BERT_CLASSES)}: save the tokenizer "
            "with transformers first, which writes tokenizer.json"
        )
    texts = lines.removesuffix("\n").split("\n")
    vocab = {text.rstrip("\r"): token for token, text in enumerate(texts)}
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": settings.get("tokenize_chinese_chars", True) is not False,
        "strip_accents": settings.get("strip_accents"),
        "lowercase": settings.get("do_lower_case", True) is not False,
    }
    model: dict[str, Any] = {"type": "WordPiece", "vocab": vocab, "unk_token": "[UNK]"}
    model |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    found: dict[str, Any] = {"version": "1.0", "normalizer": normalizer, "model": model}
    ends = {text: vocab[text] for text in ("[CLS]", "[SEP]") if text in vocab}
    if len(ends) == 2:
        piece = [{"SpecialToken": {"id": text, "type_id": 0}} for text in ends]
        body = {"Sequence": {"id": "A", "type_id": 0}}
        found["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [piece[0], body, piece[1]],
            "pair": [piece[0], body, piece[1], {"Sequence": {"id": "B", "type_id": 1}}, piece[1]],
            "special_tokens": {
                text: {"id": text, "ids": [token], "tokens": [text]} for text, token in ends.items()
            },
        }
    return found | {"pre_tokenizer": {"type": "BertPreTokenizer"}}


def _of_tekken(tekken: Mapping[str, Any]) -> dict[str, Any]:
    """Mistral's list of byte strings by rank; special tokens have the lowest ids."""
    settings, entries = tekken.get("config"), tekken.get("vocab")
    specials = tekken.get("special_tokens") or []
    try:
        if not (isinstance(settings, Mapping) and isinstance(entries, list) and isinstance(specials, list)):
            raise TypeError("a part")
        n_special = int(settings["default_num_special_tokens"])
        n_vocab = int(settings.get("default_vocab_size", len(entries) + n_special))
        pattern = str(settings["pattern"])
        ranks = {base64.b64decode(e["token_bytes"]): int(e["rank"]) for e in entries[: n_vocab - n_special]}
        texts = {int(e["rank"]): str(e["token_str"]) for e in specials}
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{_TEKKEN}: {show(str(error))} is missing or malformed, expected config, vocab and "
            "special_tokens as mistral-common writes them; download it again"
        ) from None
    added: list[dict[str, Any]] = [
        {"id": i, "content": texts.get(i, f"<SPECIAL_{i}>"), "single_word": False, "lstrip": False}
        | {"rstrip": False, "normalized": False, "special": True}
        for i in range(n_special)
    ]
    vocab = {str(entry["content"]): int(entry["id"]) for entry in added}
    vocab |= {_spelled(token): rank + n_special for token, rank in ranks.items()}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split, _BYTE_LEVEL | {"use_regex": False}],
        },
        "model": {"type": "BPE", "vocab": vocab, "merges": _merges(ranks), "ignore_merges": True},
    }


def _merges(ranks: Mapping[bytes, int]) -> list[list[str]]:
    """Every pair that makes a token, in the order of the tokens' ranks: tiktoken's order of merging."""
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        splits = ((token[:i], token[i:]) for i in range(1, len(token)))
        pairs = [pair for pair in splits if pair[0] in ranks and pair[1] in ranks]
        pairs.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [[_spelled(left), _spelled(right)] for left, right in pairs]
    return merges


def _spelled(token: bytes) -> str:
    return token.decode("latin-1").translate(BYTE_TO_CHAR)
