"""`edgellm eval`: perplexity of a model, its divergence from another, importances of weights' columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from edgellm.commands.loading import find_model, load_model
from edgellm.commands.options import INT, JSON, LOADING, OFFLINE, TEXT, Command, Option, Positional
from edgellm.commands.progress import DownloadProgress
from edgellm.commands.settings import Settings
from edgellm.convert.calibration import Turn, bundled_texts, calibrate, held_out_texts, plain_text
from edgellm.convert.importance import text_ids, write_statistics
from edgellm.convert.receipt import Divergence, file_weights, standard_error
from edgellm.convert.vocabulary import sample_lines
from edgellm.device.cores import default_threads
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
        figures = _perplexity(path, settings)
    print(json.dumps(figures) if settings["json"] else _text(figures))
    return 0


def _text(figures: Mapping[str, float]) -> str:
    """The figures in a line, each with its standard error."""
    shown = []
    for key, value in figures.items():
        if not key.endswith("_error"):
            error = figures.get(f"{key}_error")
            shown.append(f"{key} {value:.6g}" + ("" if error is None else f" ± {error:.2g}"))
    return ", ".join(shown)


def _perplexity(path: Path, settings: Settings) -> dict[str, float]:
    """Perplexity of a model and its standard error."""
    with load_model(path, settings) as model:
        ids = _ids(model.tokenizer, held_out_texts(), settings)
        with DownloadProgress(path.name, "measuring", in_bytes=False) as progress:
            windows = model.losses(ids, progress=progress)
    found = float(np.exp(np.concatenate(windows).mean()))
    # The error of exp(x) is exp(x) times that of x.
    error = found * standard_error(windows)
    return {"perplexity": found, "perplexity_error": error, "tokens": len(ids)}


def _ids(tokenizer: Tokenizer, bundled: Sequence[str | list[Turn]], settings: Settings) -> list[int]:
    """Tokens of the text, or of the bundled one, at most the requested number."""
    limit = settings["tokens"]
    if limit < 2:
        raise UsageError(f"--tokens is {limit}, expected at least 2")
    if settings["text"] is None:
        return tokenizer.encode("\n\n".join(map(plain_text, bundled)))[:limit]
    return text_ids(Path(settings["text"]), tokenizer)[:limit]


def _kld(path: Path, base: Path, settings: Settings) -> dict[str, float]:
    """Divergence of a model from a base model over windows of the text; one window in memory at a time."""
    # An adapter is part of the measured model: against its own base, this measures the adapter's change.
    with load_model(path, settings) as model, load_model(base, settings, with_lora=False) as reference:
        ids = _ids(model.tokenizer, held_out_texts(), settings)
        sample = "\n".join(sample_lines())
        if reference.tokenizer.encode(sample) != model.tokenizer.encode(sample):
            raise UsageError(f"{path} and {base} have different tokenizers; compare models of one vocabulary")
        found = Divergence()
        with DownloadProgress(path.name, "measuring", in_bytes=False) as progress:
            for window in _windows(ids, min(model.n_ctx, reference.n_ctx, 512)):
                found.add(reference.logits(window), model.logits(window), window)
                progress(found.n_tokens, len(ids))
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


def _imatrix(path: Path, output: Path, settings: Settings) -> int:
    if output.exists():
        raise FileError(f"{output}: exists already, expected a new file; choose another name")
    with GGUFFile.open(path) as file:
        ids = _ids(Tokenizer.from_metadata(file.metadata), bundled_texts(), settings)
        program = build(file.metadata, {name: info.shape for name, info in file.tensors.items()})
        threads = settings["threads"] or default_threads()
        texts = list(_windows(ids, min(512, program.n_ctx_train)))
        with DownloadProgress(path.name, "measuring", in_bytes=False) as progress:
            found = calibrate(program, file_weights(file, threads), texts, threads=threads, progress=progress)
    write_statistics(output, found.statistics, settings["text"] or "edgellm's text")
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
        Option("text", ("--text",), "text file; otherwise a built-in text", TEXT, "FILE"),
        Option("tokens", ("--tokens",), "most tokens of the text that are read", INT, "N", default=2048),
        *(option for option in LOADING if option.name != "model"),
        JSON,
        OFFLINE,
    ),
    examples=(
        ("edgellm eval perplexity model.gguf", "of a built-in text"),
        ("edgellm eval kld small.gguf large.gguf", "what small.gguf lost"),
        ("edgellm eval imatrix model.gguf out.gguf", "for `quantize --imatrix out.gguf`"),
    ),
)
