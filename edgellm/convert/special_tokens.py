"""The special tokens of a checkpoint: their ids, the ends of an answer, those around a text; templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.pipeline import Pair
from edgellm.gguf.types import ValueType

_SPECIALS = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "sep": "seperator_token_id",
    "pad": "padding_token_id",
    "cls": "cls_token_id",
    "mask": "mask_token_id",
}
_TEMPLATE = "tokenizer.chat_template"


def special_ids(
    checkpoint: Checkpoint, settings: Mapping[str, Any], ids: Mapping[str, int]
) -> dict[str, Pair]:
    """The ids of special tokens: by their texts in the tokenizer's files, or else by config.json."""
    listed = checkpoint.json("special_tokens_map.json") or {}
    generation = checkpoint.json("generation_config.json") or {}
    found: dict[str, Pair] = {}
    for name, key in _SPECIALS.items():
        token = ids.get(text) if (text := _text(settings, listed, name)) is not None else None
        if token is None:
            configured = (_ids_in(config, name, len(ids)) for config in (checkpoint.config, generation))
            token = next((ends[0] for ends in configured if ends), None)
        if token is not None:
            found[f"tokenizer.ggml.{key}"] = Pair(token)
    end_of_document = checkpoint.config.get("eod_token_id")
    if type(end_of_document) is int:
        found["tokenizer.ggml.eos_token_id"] = Pair(end_of_document)
    return found | _ends_of_answers(checkpoint.config, generation, found, len(ids))


def _text(settings: Mapping[str, Any], listed: Mapping[str, Any], name: str) -> str | None:
    text = settings.get(f"{name}_token") or listed.get(f"{name}_token")
    if isinstance(text, Mapping):
        text = text.get("content")
    return text if isinstance(text, str) else None


def _ends_of_answers(
    config: Mapping[str, Any], generation: Mapping[str, Any], found: Mapping[str, Pair], n_tokens: int
) -> dict[str, Pair]:
    """Every listed end: GGUF has two keys beside eos, and a list of our own holds any number."""
    eos = found.get("tokenizer.ggml.eos_token_id")
    ends = [] if eos is None else [eos.value]
    for token in (*_ids_in(generation, "eos", n_tokens), *_ids_in(config, "eos", n_tokens)):
        if token not in ends:
            ends.append(token)
    others = ends if eos is None else ends[1:]
    pairs = {
        f"tokenizer.ggml.{key}_token_id": Pair(token)
        for token, key in zip(others, ("eot", "eom"), strict=False)
    }
    if len(others) > len(pairs):
        pairs["edgellm.tokenizer.eog_ids"] = Pair(ends, ValueType.INT32)
    return pairs


def _ids_in(config: Mapping[str, Any], name: str, n_tokens: int) -> list[int]:
    """A config's `<name>_token_id`, which may be one or a list; those out of range are left out."""
    nested = config.get("text_config")
    value = config.get(f"{name}_token_id")
    if value is None and isinstance(nested, Mapping):
        value = nested.get(f"{name}_token_id")
    values = value if isinstance(value, list) else [value]
    return [token for token in values if type(token) is int and 0 <= token < n_tokens]


def surroundings(
    before: Sequence[int], after: Sequence[int], settings: Mapping[str, Any], found: Mapping[str, Pair]
) -> tuple[list[int], list[int]]:
    """The tokens around a text: those of the post-processor, where add_bos_token and add_eos_token agree.

    As in transformers 5, a flag counts more than the post-processor, for bos and eos themselves.
    """
    sides = []
    for name, tokens in (("bos", before), ("eos", after)):
        wanted = settings.get(f"add_{name}_token")
        pair = found.get(f"tokenizer.ggml.{name}_token_id")
        own = [pair.value] if pair is not None and isinstance(pair.value, int) else []
        if own and wanted is True and own[0] not in tokens:
            sides.append(own)
        else:
            sides.append([] if wanted is False and list(tokens) == own else list(tokens))
    return sides[0], sides[1]


def templates(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> dict[str, Pair]:
    """The chat template, and others by their names."""
    text = checkpoint.text("chat_template.jinja")
    if text is None:
        text = (checkpoint.json("chat_template.json") or {}).get("chat_template")
    value = settings.get("chat_template") if text is None else text
    named: dict[str, str] = {}
    if isinstance(value, str):
        named["default"] = value
    for entry in value if isinstance(value, list) else ():
        if isinstance(entry, Mapping) and isinstance(entry.get("template"), str):
            named[str(entry.get("name"))] = entry["template"]
    for path in sorted(checkpoint.folder.glob("additional_chat_templates/*.jinja")):
        more = checkpoint.text(str(path.relative_to(checkpoint.folder)))
        if more is not None:
            named.setdefault(path.stem, more)
    found = {
        _TEMPLATE if name == "default" else f"{_TEMPLATE}.{name}": Pair(text) for name, text in named.items()
    }
    others = [name for name in named if name != "default"]
    return found | ({"tokenizer.chat_templates": Pair(others, ValueType.STRING)} if others else {})


def rank_prompt(checkpoint: Checkpoint, found: Mapping[str, Pair]) -> dict[str, Pair]:
    """The prompt of a generative ranker in ChatML, which answers yes or no; its folder says so by name.

    The words are those of Qwen3-Reranker's model card; llama.cpp stores the prompt under the same key.
    """
    texts = found["tokenizer.ggml.tokens"].value
    known = isinstance(texts, list) and all(word in texts for word in ("yes", "no", "<|im_start|>"))
    if not known or "rerank" not in checkpoint.folder.resolve().name.lower():
        return {}
    return {f"{_TEMPLATE}.rerank": Pair(_RANK_PROMPT)}


_RANK_PROMPT = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    "<Instruct>: Given a web search query, retrieve relevant passages that answer the query\n"
    "<Query>: {query}\n<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
