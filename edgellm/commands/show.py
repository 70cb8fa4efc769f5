"""`edgellm show`: contents of a model file, and the memory it takes, without loading it."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from edgellm.commands.loading import write_answer
from edgellm.commands.options import (
    CONTEXT,
    JSON,
    KV_TYPE,
    MODEL,
    OFFLINE,
    SWITCH,
    Command,
    Option,
    Positional,
)
from edgellm.commands.serve import CACHE_CONTEXTS
from edgellm.commands.settings import Settings
from edgellm.convert.quality import word
from edgellm.engine.kv_types import cached_bytes, chosen_kv_type
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.planning import default_context
from edgellm.errors import EdgeLLMError, UsageError, harmless, one_line, size_text
from edgellm.families import build
from edgellm.gguf.reader import GGUFFile
from edgellm.program import Program, to_text
from edgellm.program.exported import TYPE_KEY, exported_bytes, is_exported, stored_program, stored_sizes
from edgellm.store.resolve import resolve

_LONGEST = 8


def run(settings: Settings) -> int:
    """Print the requested facts about a model's file."""
    name = settings["name"] or settings["model"]
    path = resolve(name, offline=settings["offline"], on_disk=True)
    with GGUFFile.open(path) as file:
        if settings["program"]:
            print(to_text(_program(file, settings)), end="")
        elif settings["tensors"]:
            _show_tensors(file, settings["json"])
        elif settings["metadata"]:
            _show_metadata(file, settings["json"])
        elif settings["template"]:
            write_answer(_template(file.metadata) + "\n")
        else:
            summary = summarize(file, settings)
            print(json.dumps(summary, indent=2, ensure_ascii=False) if settings["json"] else _text(summary))
    return 0


def summarize(file: GGUFFile, settings: Settings) -> dict[str, Any]:
    """Summary of a file: identity, sizes in bytes, tensors by type, memory at the requested context."""
    metadata = file.metadata
    architecture = str(metadata.get("general.architecture", ""))
    types: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    n_parameters = 0
    for info in file.tensors.values():
        entry = types[info.type.name]
        entry[0] += 1
        entry[1] += info.n_bytes
        count = 1
        for size in info.shape:
            count *= size
        n_parameters += count
    file_bytes = file.path.stat().st_size
    if is_exported(metadata):
        n_parameters = sum(map(math.prod, stored_program(metadata).weights.values()))
        file_bytes += exported_bytes(file.path)
        sizes = stored_sizes(metadata)
        types[str(metadata.get(TYPE_KEY))] = [len(sizes), sum(sizes.values())]
    summary: dict[str, Any] = {
        "path": str(file.path),
        "name": metadata.get("general.name"),
        "architecture": architecture,
        "licence": metadata.get("general.license"),
        "gguf_version": file.version,
        "file_bytes": file_bytes,
        "n_parameters": n_parameters,
        "n_tensors": sum(count for count, _ in types.values()),
        "context_trained": metadata.get(f"{architecture}.context_length"),
        "tokenizer": metadata.get("tokenizer.ggml.model"),
        "pre_tokenizer": metadata.get("tokenizer.ggml.pre"),
        "n_vocab": _length(metadata, "tokenizer.ggml.tokens"),
        "chat_template": "tokenizer.chat_template" in metadata,
        "types": {name: {"tensors": n, "bytes": size} for name, (n, size) in sorted(types.items())},
    }
    n_more = metadata.get(f"{architecture}.nextn_predict_layers")
    if n_more:
        summary["nextn_predict_layers"] = n_more
    prefix = "edgellm.quality."
    quality = {key.removeprefix(prefix): metadata[key] for key in metadata if key.startswith(prefix)}
    if quality:
        summary["quality"] = {
            key: value.strip() if isinstance(value, str) else value for key, value in quality.items()
        }
    try:
        summary["memory"] = memory(_program(file, settings), file, settings)
    except EdgeLLMError as error:
        # A file that cannot be run may still be shown.
        summary["cannot_run"] = str(error)
    return summary


def memory(program: Program, file: GGUFFile, settings: Settings) -> dict[str, int]:
    """Bytes for weights and for the cache, at a context of `context` tokens."""
    context = settings["context"] or default_context(file, program, LoadOptions(kv_type=settings["kv_type"]))
    if settings["context"] == 0:
        context = program.n_ctx_train
    kv_type = chosen_kv_type(file, program, settings["kv_type"], backend="native")
    cache = context * sum(cached_bytes(spec, kv_type) for spec in program.caches)
    states = 4 * sum(state.size for state in program.states)
    if is_exported(file.metadata):
        weights = exported_bytes(file.path)
    else:
        weights = sum(file.tensors[name].n_bytes for name in program.weights)
    return {"context": context, "weights": weights, "cache": round(cache) + states}


def _program(file: GGUFFile, settings: Settings) -> Program:
    shapes = {name: info.shape for name, info in file.tensors.items()}
    try:
        return build(file.metadata, shapes, context=settings["context"] or None)
    except EdgeLLMError as error:
        raise type(error)(f"{file.path}: {error}") from None


def _text(summary: Mapping[str, Any]) -> str:
    def line(label: str, value: object) -> str:
        return f"{label:<14}{one_line(value)}"

    lines = [
        line("file", summary["path"]),
        line("name", summary["name"] or "-"),
        line("architecture", summary["architecture"] or "-"),
        line("licence", summary["licence"] or "-"),
        line("parameters", f"{summary['n_parameters'] / 1e6:.1f} M in {summary['n_tensors']} tensors"),
        line("size", size_text(summary["file_bytes"])),
        line("context", f"{summary['context_trained'] or '-'} tokens (trained)"),
        line(
            "tokenizer",
            f"{summary['tokenizer'] or '-'} {summary['pre_tokenizer'] or ''}, {summary['n_vocab']} tokens",
        ),
        line("chat template", "yes" if summary["chat_template"] else "no"),
    ]
    if "nextn_predict_layers" in summary:
        n_blocks = summary["nextn_predict_layers"]
        blocks = "1 block" if n_blocks == 1 else f"{n_blocks} blocks"
        lines.append(line("not run", f"{blocks} of multi-token prediction"))
    for name, entry in summary["types"].items():
        lines.append(line(f"  {name}", f"{entry['tensors']} tensors, {size_text(entry['bytes'])}"))
    if "quality" in summary:
        lines.append(line("quality", _quality(summary["quality"])))
        source = (summary["quality"].get("source"), summary["quality"].get("revision"))
        lines.append(line("source", " at ".join(str(part) for part in source if part) or "-"))
    if "memory" in summary:
        part = summary["memory"]
        total = part["weights"] + part["cache"]
        lines.append(
            line(
                "memory",
                f"{size_text(total)} at a context of {part['context']}: "
                f"weights {size_text(part['weights'])}, cache {size_text(part['cache'])}",
            )
        )
        served = size_text(CACHE_CONTEXTS * part["cache"])
        lines.append(line("", f"edgellm serve: cache {served}, as {CACHE_CONTEXTS} contexts share it"))
    else:
        lines.append(line("cannot run", summary["cannot_run"]))
    return "\n".join(lines)


def _quality(figures: Mapping[str, Any]) -> str:
    """Loss of the conversion, from its receipt."""
    if figures.get("cosine"):
        found = word(0.0, figures["cosine"])
        return f"{found}: cosine {figures['cosine']:.6f} to the source over {figures.get('tokens')} tokens"
    parts = [
        f"{label} {figures[key] * scale:{form}}"
        for key, label, scale, form in (
            ("top1", "top-1 %", 100, ".1f"),
            ("kld", "KLD", 1, ".4f"),
            ("perplexity", "perplexity", 1, ".3f"),
        )
        if isinstance(figures.get(key), int | float)
    ]
    kld, error = figures.get("kld"), figures.get("kld_error")
    if isinstance(kld, float):
        parts[0] = f"{word(kld)}: {parts[0]}"
    if isinstance(error, float):
        parts = [f"{part} ± {error:.4f}" if part.startswith("KLD") else part for part in parts]
    if figures.get("plain_type"):
        parts.append(f"plain {figures['plain_type']}'s KLD about {figures.get('plain_kld', 0):.4f}")
    return f"{', '.join(parts)} against the source over {figures.get('tokens')} tokens"


def _show_tensors(file: GGUFFile, as_json: bool) -> None:
    if as_json:
        rows = [
            {"name": i.name, "type": i.type.name, "shape": list(i.shape), "bytes": i.n_bytes}
            for i in file.tensors.values()
        ]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    width = max((len(name) for name in file.tensors), default=0)
    for info in file.tensors.values():
        shape = " x ".join(map(str, info.shape))
        print(f"{harmless(info.name):<{width}}  {info.type.name:<8} {info.n_bytes:>12}  {shape}")


def _show_metadata(file: GGUFFile, as_json: bool) -> None:
    if as_json:
        print(json.dumps(dict(file.metadata), indent=2, ensure_ascii=False))
        return
    for key, value in file.metadata.items():
        if isinstance(value, list):
            more = f", ... ({len(value)} values)" if len(value) > _LONGEST else ""
            shown = "[" + ", ".join(repr(item) for item in value[:_LONGEST]) + more + "]"
        else:
            shown = repr(value)
        print(f"{harmless(key)} = {shown}")


def _template(metadata: Mapping[str, Any]) -> str:
    template = metadata.get("tokenizer.chat_template")
    if not isinstance(template, str):
        raise UsageError("This model has no chat template")
    return template


def _length(metadata: Mapping[str, Any], key: str) -> int:
    value = metadata.get(key)
    return len(value) if isinstance(value, list) else 0


def _view(name: str, text: str) -> Option:
    return Option(name, (f"--{name}",), text, SWITCH, default=False)


COMMAND = Command(
    summary="Show what a model file holds.",
    run=run,
    description="Shows a model's name, sizes, tensor types, and the memory it takes at a context, without\n"
    "loading it.",
    positionals=(Positional("name", "path of a GGUF file, name, or user/repo:QUANT"),),
    options=(
        MODEL,
        CONTEXT,
        KV_TYPE,
        _view("program", "print the program that the engine runs"),
        _view("tensors", "print every tensor's type, bytes and shape"),
        _view("metadata", "print all metadata"),
        _view("template", "print the chat template"),
        JSON,
        OFFLINE,
    ),
    examples=(
        ("edgellm show model.gguf", "what it is, and the memory it takes"),
        ("edgellm show model.gguf -c 32768", "the memory at a context of 32768 tokens"),
        ("edgellm show model.gguf --program", "the operations of its forward pass"),
        ("edgellm show model.gguf --json", "for a program"),
    ),
)  # fmt: skip
