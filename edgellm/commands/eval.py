"""`edgellm eval`: perplexity of a model, its divergence from another, importances of weights' columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgellm.commands.loading import find_model, load_model
from edgellm.commands.options import INT, JSON, LOADING, OFFLINE, TEXT, Command, Option, Positional
from edgellm.commands.settings import Settings
from edgellm.convert.calibration import calibrate
from edgellm.convert.importance import text_ids, write_statistics
from edgellm.convert.receipt import Divergence, file_weights
from edgellm.convert.vocabulary import sample_lines
from edgellm.device.cores import default_threads
from edgellm.engine.model import Model
from edgellm.errors import FileError, UsageError
from edgellm.families import build
from edgellm.gguf.reader import GGUFFile
from edgellm.tokenizer import Tokenizer

_KINDS = ("perplexity", "kld", "imatrix")


def run(settings: Settings) -> int:
    """Measure, and print the figures or the file's name."""
    kind = settings["what"]
    if kind not in _KINDS:
        raise UsageError(f"eval: {kind!r} is not known, expected one of {', '.join(_KINDS)}")
    if (settings["other"] is None) != (kind == "perplexity"):
        needs = {"perplexity": "one model", "kld": "two models", "imatrix": "a model and the file to write"}
        raise UsageError(f"eval {kind}: needs {needs[kind]}; see `edgellm eval --help`")
    path = find_model(settings["name"], settings)
    if kind == "imatrix":
        if settings["lora"]:
            raise UsageError("eval imatrix: --lora cannot be given; merge the adapter with `edgellm convert`")
        return _imatrix(path, Path(settings["other"]), settings)
    if kind == "kld":
        figures = _kld(path, find_model(settings["other"], settings), settings)
    else:
        with load_model(path, settings) as model:
            ids = _ids(model.tokenizer, settings)
            figures = {"perplexity": model.perplexity(ids), "tokens": len(ids)}
    if settings["json"]:
        print(json.dumps(figures))
    else:
        print(", ".join(f"{key} {value:.6g}" for key, value in figures.items()))
    return 0


def _ids(tokenizer: Tokenizer, settings: Settings) -> list[int]:
    """Tokens of the text, at most the requested number."""
    limit = settings["tokens"]
    if limit < 2:
        raise UsageError(f"--tokens is {limit}, expected at least 2")
    if settings["text"] is None:
        return tokenizer.encode("\n".join(sample_lines()))[:limit]
    return text_ids(Path(settings["text"]), tokenizer)[:limit]


def _kld(path: Path, base: Path, settings: Settings) -> dict[str, float]:
    """Divergence of a model from a base model over windows of the text; one window in memory at a time."""
    # An adapter is part of the measured model: against its own base, this measures the adapter's change.
    with load_model(path, settings) as model, load_model(base, settings, with_lora=False) as reference:
        ids = _ids(model.tokenizer, settings)
        sample = "\n".join(sample_lines())
        if reference.tokenizer.encode(sample) != model.tokenizer.encode(sample):
            raise UsageError(f"{path} and {base} have different tokenizers; compare models of one vocabulary")
        found = Divergence()
        for window in _windows(ids, min(model.n_ctx, reference.n_ctx, 512)):
            found.add(_logits(reference, window), _logits(model, window), window)
    return {
        "top1": found.top1,
        "kld": found.kld,
        "kld_error": found.kld_error,
        "kld_p99": found.kld_p99,
        "perplexity": float(np.exp(found.losses[1])),
        "base_perplexity": float(np.exp(found.losses[0])),
        "tokens": found.n_tokens,
    }


def _windows(ids: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(ids), size):
        window = list(ids[start : start + size])
        if len(window) > 1:
            yield window


def _logits(model: Model, ids: list[int]) -> NDArray[np.float32]:
    return model.logits(ids)


def _imatrix(path: Path, output: Path, settings: Settings) -> int:
    if output.exists():
        raise FileError(f"{output}: exists already, expected a new file; choose another name")
    with GGUFFile.open(path) as file:
        ids = _ids(Tokenizer.from_metadata(file.metadata), settings)
        program = build(file.metadata, {name: info.shape for name, info in file.tensors.items()})
        threads = settings["threads"] or default_threads()
        texts = list(_windows(ids, min(512, program.n_ctx_train)))
        found = calibrate(program, file_weights(file, threads), texts, threads=threads)
    write_statistics(output, found.statistics, settings["text"] or "edgellm sample")
    print(output)
    return 0


COMMAND = Command(
    summary="Measure a model on a text.",
    run=run,
    description="perplexity MODEL: exp of the mean loss of the text's tokens.\n"
    "kld MODEL BASE: mean divergence of MODEL from BASE, and how often both choose the same token.\n"
    "imatrix MODEL FILE: how much each column of each weight matters, for `--imatrix` and llama.cpp.",
    positionals=(
        Positional("what", "perplexity, kld or imatrix", "1"),
        Positional("name", "model: path, name, or user/repo:QUANT", "1"),
        Positional("other", "base model, or the file to write"),
    ),
    options=(
        Option("text", ("--text",), "text file; otherwise a short built-in text", TEXT, "FILE"),
        Option("tokens", ("--tokens",), "most tokens of the text that are read", INT, "N", default=2048),
        *(option for option in LOADING if option.name != "model"),
        JSON,
        OFFLINE,
    ),
    examples=(
        ("edgellm eval perplexity model.gguf", "of a short text in many languages"),
        ("edgellm eval kld small.gguf large.gguf", "what small.gguf lost"),
        ("edgellm eval imatrix model.gguf out.gguf", "for `quantize --imatrix out.gguf`"),
    ),
)
