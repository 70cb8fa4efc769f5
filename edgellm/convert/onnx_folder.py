"""Writing a folder with an ONNX model: graph, weights, tokenizer, and what edgellm needs to run it.

The folder grows as `<name>.part` and gets its name when all of it is on the disk. `edgellm.gguf` in it holds
the metadata of the model, tokenizer and chat template included, and its program, but no weights.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgellm.convert.checkpoint import Folder
from edgellm.convert.onnx_arrays import StoredWeight
from edgellm.convert.onnx_graph import Graph, build_graph, choose_kinds
from edgellm.convert.pipeline import Feedbacks, FilePlan, Pair, Progress, Tensor
from edgellm.convert.receipt import source_weights
from edgellm.errors import FileError, ModelError, size_text
from edgellm.families.registry import build
from edgellm.gguf.types import ValueType
from edgellm.gguf.writer import GGUFWriter
from edgellm.program import Program, to_text
from edgellm.program.exported import (
    DATA_FILE,
    METADATA_FILE,
    MODEL_FILE,
    NAMES_KEY,
    PROGRAM_KEY,
    SIZES_KEY,
    TYPE_KEY,
)
from edgellm.quant.feedback import Feedback
from edgellm.quant.nbits import BLOCK, Kind, encode

TYPES = ("INT4", "F32")

# Files of a checkpoint's folder beside the weights that are copied.
_COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
# Beside the arrays: the graph, the tokenizer's files, the file system's own needs.
_SLACK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class FolderPlan:
    """Contents of a folder to write: `tensors` as in their source, the program, the graph."""

    source: FilePlan
    program: Program
    graph: Graph
    type: str

    @property
    def n_bytes(self) -> int:
        """Bytes of all arrays."""
        return self.graph.n_bytes


def plan_folder(source: FilePlan, kind: str, chosen: Mapping[str, Kind] | None = None) -> FolderPlan:
    """The folder of a model whose matrices are stored as `kind`, INT4 or F32.

    chosen: formats of some matrices, in place of the usual ones of INT4. Raises UnsupportedError for a model
    that cannot be expressed, BackendError without the onnx package.
    """
    metadata: dict[str, Any] = {key: pair.value for key, pair in source.metadata.items()}
    shapes = {tensor.name: tensor.shape for tensor in source.tensors}
    program = build(metadata, shapes)
    kinds = {**choose_kinds(program, int4=kind == "INT4"), **(chosen or {})}
    return FolderPlan(
        source, program, build_graph(program, kinds, DATA_FILE, source_weights(source).__getitem__), kind
    )


def write_folder(
    plan: FolderPlan,
    folder: Path,
    *,
    files: Mapping[str, bytes],
    threads: int,
    progress: Progress,
    finish: Callable[[Path], Mapping[str, Pair]],
) -> None:
    """Write the folder; each tensor's relative error ends up in `plan.source.errors`.

    files: further ones, by name. finish: called with the folder when all but its metadata is written; returns
    what else belongs there. If it raises, nothing is left. A folder of that name is replaced.
    """
    part = folder.with_name(f"{folder.name}.part")
    try:
        _remove(part)
        part.mkdir()
        free = shutil.disk_usage(part).free
        if free < plan.n_bytes + _SLACK_BYTES:
            raise FileError(
                f"{folder}: {size_text(plan.n_bytes)} are needed and {size_text(free)} are free on the "
                "disk; make room or choose another folder"
            )
        with open(part / DATA_FILE, "wb") as data:
            _write_arrays(plan, data, threads, progress)
            _sync(data)
        texts = {MODEL_FILE: plan.graph.model.SerializeToString(), **files}
        for name, content in texts.items():
            with open(part / name, "wb") as file:
                file.write(content)
                _sync(file)
        _write_metadata(plan, part / METADATA_FILE, finish(part))
        _move(part, folder)
    except OSError as error:
        _remove(part)
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
        raise FileError(
            f"{folder}: cannot be written ({reason}); check the disk and the folder's permissions"
        ) from None
    except BaseException:
        _remove(part)
        raise


def is_ours(folder: Path) -> bool:
    """True if a folder was written here, so that it may be replaced."""
    return (folder / METADATA_FILE).is_file() and (folder / MODEL_FILE).is_file()


def checkpoint_files(folder: Path, program: Program, metadata: Mapping[str, Pair]) -> dict[str, bytes]:
    """The files of a checkpoint that belong beside the model, and ONNX Runtime GenAI's own."""
    source = Folder(folder)
    found = {name: raw for name in _COPIED if (raw := source.bytes(name)) is not None}
    config = source.json("config.json") or {}
    found["genai_config.json"] = json.dumps(_genai_config(config, program, metadata), indent=2).encode()
    return found


def _genai_config(
    config: Mapping[str, Any], program: Program, metadata: Mapping[str, Pair]
) -> dict[str, Any]:
    """Settings of a decoder for ONNX Runtime GenAI."""

    def token(name: str) -> Any:
        pair = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return None if pair is None else pair.value

    def sampling(name: str, default: float) -> Any:
        pair = metadata.get(f"general.sampling.{name}")
        return default if pair is None else pair.value

    attention = next(op for op in program.ops if op.kind == "attention")
    cache, n_heads = program.caches[0], int(attention.attrs["n_heads"])
    end = config.get("eos_token_id", token("eos"))
    first_end = end[0] if isinstance(end, list) else end
    past = {f"past_{part}_names": f"past_key_values.%d.{part}" for part in ("key", "value")}
    present = {f"present_{part}_names": f"present.%d.{part}" for part in ("key", "value")}
    return {
        "model": {
            "type": config.get("model_type"),
            "vocab_size": program.n_vocab,
            "context_length": program.n_ctx_train,
            "bos_token_id": token("bos") if token("bos") is not None else first_end,
            "eos_token_id": end,
            "pad_token_id": token("padding") if token("padding") is not None else first_end,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": MODEL_FILE,
                "head_size": cache.key_dim,
                "hidden_size": program.width,
                "num_attention_heads": n_heads,
                "num_hidden_layers": len(program.caches),
                "num_key_value_heads": cache.n_kv_heads,
                "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask", **past},
                "outputs": {"logits": "logits", **present},
            },
        },
        "search": {
            "do_sample": False,
            "max_length": program.n_ctx_train,
            "min_length": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": True,
            "repetition_penalty": sampling("penalty_repeat", 1.0),
            "temperature": sampling("temp", 1.0),
            "top_k": sampling("top_k", 50),
            "top_p": sampling("top_p", 1.0),
        },
    }


def _write_arrays(plan: FolderPlan, data: BinaryIO, threads: int, progress: Progress) -> None:
    data.truncate(plan.graph.n_bytes)
    tensors = {tensor.name: tensor for tensor in plan.source.tensors}
    feedbacks = Feedbacks(threads)
    for weight in plan.graph.weights:
        tensor = tensors[weight.name]
        feedback = feedbacks.of(tensor, BLOCK) if weight.kind is not None else None
        error, power = _write_weight(weight, tensor, feedback, data, threads)
        plan.source.errors[weight.name] = float(np.sqrt(error / power)) if power > 0 else 0.0
        progress(weight.name, weight.n_bytes)


def _write_weight(
    weight: StoredWeight, tensor: Tensor, feedback: Feedback | None, data: BinaryIO, threads: int
) -> tuple[float, float]:
    """Write a weight's arrays, some rows at a time; returns the sums of square errors and of squares."""
    error, power, row = 0.0, 0.0, 0
    for values in tensor.source.pieces():
        rows = values.reshape(-1, weight.shape[-1])
        try:
            arrays, sums = _encode(weight.kind, rows, tensor.importance, feedback, threads)
        except ModelError as problem:
            raise ModelError(f"tensor {weight.name}: {problem}") from None
        for blob, array in zip(weight.blobs, arrays, strict=True):
            data.seek(blob.offset + row * (blob.n_bytes // prod(weight.shape[:-1])))
            data.write(np.ascontiguousarray(array).data)
        error, power, row = error + sums[0], power + sums[1], row + len(rows)
    return error, power


def _encode(
    kind: Kind | None,
    rows: NDArray[np.float32],
    importance: NDArray[np.float32] | None,
    feedback: Feedback | None,
    threads: int,
) -> tuple[list[NDArray[Any]], tuple[float, float]]:
    """The arrays of some rows in the order of `StoredWeight.blobs`, and their (weighted) sums of squares."""
    if kind is None:
        if not np.isfinite(rows).all():
            raise ModelError("a value is NaN or infinite; the weights are damaged")
        return [rows], (0.0, 0.0)
    found = encode(kind, rows, importance, feedback, threads=threads)
    return [*found.parts, found.roots, found.units], (found.error, found.power)


def _write_metadata(plan: FolderPlan, path: Path, further: Mapping[str, Pair]) -> None:
    metadata = {key: pair for key, pair in plan.source.metadata.items() if key != "general.file_type"}
    sizes = {weight.name: weight.n_bytes for weight in plan.graph.weights}
    metadata |= {
        PROGRAM_KEY: Pair(to_text(plan.program)),
        TYPE_KEY: Pair(plan.type),
        NAMES_KEY: Pair(list(sizes)),
        SIZES_KEY: Pair(list(sizes.values()), ValueType.UINT64),
        **further,
    }
    with GGUFWriter(path) as writer:
        for key, pair in metadata.items():
            writer.set(key, pair.value, pair.kind)
        writer.write_header()
        writer.finish()


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _move(part: Path, folder: Path) -> None:
    """Give the finished folder its name; one that had it goes after that."""
    old = folder.with_name(f"{folder.name}.old")
    if folder.exists():
        _remove(old)
        folder.rename(old)
    part.rename(folder)
    _remove(old)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
