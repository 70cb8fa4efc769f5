"""Modules of sentence-transformers: pooling and the longest text are written, others are refused.

Version 6 writes the pooling by name, older ones a flag for each mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.pipeline import Pair
from edgellm.errors import FormatError, UnsupportedError, show
from edgellm.families.checkpoint import CheckpointPlan
from edgellm.families.transforms import GroupRows
from edgellm.gguf.types import ValueType

_MODES = {
    "mean": 1,
    # The mean times a number, which the length of 1 takes away again.
    "mean_sqrt_len_tokens": 1,
    "cls": 2,
    "lasttoken": 3,
}
_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
# Modules that change nothing: embeddings have length 1 here, and nothing is dropped outside training.
_NEUTRAL = ("Transformer", "Pooling", "Normalize", "Dropout")
_POSITIONS = "position_embd.weight"
_CONFIG = "config_sentence_transformers.json"
# transformers writes this for tokenizers without a limit.
_NO_LIMIT = 1 << 30


def pooling(checkpoint: Checkpoint, architecture: str) -> dict[str, Pair]:
    """The metadata of the way from rows to one embedding; empty where the folder has no such modules.

    Raises UnsupportedError for a module or a pooling that is not implemented.
    """
    modules = _modules(checkpoint)
    for kind, path in modules:
        if kind not in _NEUTRAL and not _is_linear(checkpoint, kind, path):
            raise UnsupportedError(
                f"{checkpoint.folder / path}: the module {show(kind)} of sentence-transformers is not "
                f"implemented, supported are {', '.join(_NEUTRAL)}; use a model without it"
            )
    path = next((path for kind, path in modules if kind == "Pooling"), "1_Pooling")
    settings = checkpoint.json(f"{path}/config.json")
    if settings is None:
        return {}
    found = settings.get("pooling_mode")
    modes = found if isinstance(found, list) else [found]
    if found is None:
        modes = [mode for flag, mode in _FLAGS.items() if settings.get(flag) is True]
    if len(modes) != 1 or modes[0] not in _MODES:
        raise UnsupportedError(
            f"{checkpoint.folder / path / 'config.json'}: the pooling is {show(modes)}, supported is one of "
            f"{', '.join(_MODES)}"
        )
    if settings.get("include_prompt") is False and any(_prompts(checkpoint).values()):
        raise UnsupportedError(
            f"{checkpoint.folder / path / 'config.json'}: 'include_prompt' is false, expected true; prompts "
            "cannot be left out of the pooling"
        )
    return {f"{architecture}.pooling_type": Pair(_MODES[modes[0]])}


def prompts(checkpoint: Checkpoint) -> dict[str, Pair]:
    """The metadata of the texts to put before others, by name; FormatError for a default that is no name."""
    known = _prompts(checkpoint)
    found: dict[str, Pair] = {}
    if known:
        found["edgellm.prompts.names"] = Pair(list(known), ValueType.STRING)
        found["edgellm.prompts.texts"] = Pair(list(known.values()), ValueType.STRING)
    chosen = (checkpoint.json(_CONFIG) or {}).get("default_prompt_name")
    if chosen is None:
        return found
    if chosen not in known:
        raise FormatError(
            f"{checkpoint.folder / _CONFIG}: 'default_prompt_name' is {show(chosen)}, expected one of "
            f"{', '.join(known) or 'the prompts, of which there are none'}; correct it"
        )
    return found | {"edgellm.prompts.default": Pair(chosen)}


def _prompts(checkpoint: Checkpoint) -> dict[str, str]:
    given = (checkpoint.json(_CONFIG) or {}).get("prompts")
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not all(isinstance(text, str) for text in given.values()):
        raise FormatError(
            f"{checkpoint.folder / _CONFIG}: 'prompts' is {show(given)}, expected texts by their names; "
            "download it again"
        )
    return dict(given)


def _is_linear(checkpoint: Checkpoint, kind: str, path: str) -> bool:
    """True for a matrix without an activation, whose weights the family reads."""
    if kind != "Dense":
        return False
    settings = checkpoint.json(f"{path}/config.json") or {}
    return str(settings.get("activation_function")).endswith(".Identity") and not settings.get("bias")


def _modules(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """The kind and the folder of each module: of modules.json, or by the names of folders."""
    listed = checkpoint.value("modules.json")
    if listed is None:
        folders = sorted(checkpoint.folder.glob("[0-9]_*/config.json"))
        return [(path.parent.name.split("_", 1)[1], path.parent.name) for path in folders]
    modules = []
    for entry in listed if isinstance(listed, list) else [listed]:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("type"), str):
            raise FormatError(
                f"{checkpoint.folder / 'modules.json'}: holds {show(entry)}, expected modules with a type "
                "and a path; download it again"
            )
        path = entry.get("path")
        if not isinstance(path, str) or "/" in path.strip("/") or ".." in path:
            raise FormatError(
                f"{checkpoint.folder / 'modules.json'}: the path {show(path)}, expected a folder beside it"
            )
        modules.append((entry["type"].rpartition(".")[2], path))
    return modules


def bounded(checkpoint: Checkpoint, planned: CheckpointPlan) -> CheckpointPlan:
    """The plan with the context of sentence-transformers, which cuts longer texts."""
    if checkpoint.value("modules.json") is None:
        return planned
    own = (checkpoint.json("sentence_bert_config.json") or {}).get("max_seq_length")
    limit = own if own is not None else _tokenizer_limit(checkpoint)
    key = f"{planned.architecture}.context_length"
    trained = planned.metadata.get(key)
    if type(limit) is not int or not isinstance(trained, int) or not 0 < limit < trained:
        return planned
    tensors = [
        tensor._replace(shape=(limit, tensor.shape[1]), make=GroupRows(1, 0, limit))
        if tensor.name == _POSITIONS
        else tensor
        for tensor in planned.tensors
    ]
    return planned._replace(metadata=planned.metadata | {key: limit}, tensors=tuple(tensors))


def _tokenizer_limit(checkpoint: Checkpoint) -> Any:
    limit = (checkpoint.json("tokenizer_config.json") or {}).get("model_max_length")
    return limit if isinstance(limit, int) and limit < _NO_LIMIT else None
