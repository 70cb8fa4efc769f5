"""`edgellm convert --format onnx`: the folder, its progress, and its receipt, measured with ONNX Runtime."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgellm.commands import writing
from edgellm.commands.progress import DownloadProgress
from edgellm.commands.settings import Settings
from edgellm.convert.onnx_folder import (
    TYPES,
    FolderPlan,
    checkpoint_files,
    is_ours,
    plan_folder,
    write_folder,
)
from edgellm.convert.onnx_formats import check_size, choose_formats
from edgellm.convert.pipeline import FilePlan, Pair
from edgellm.convert.quality import Quality
from edgellm.convert.receipt import measure_logits, origin_pairs, quality_pairs
from edgellm.convert.writing import (
    Background,
    calibration_folder,
    check_limits,
    check_output,
    chooses_formats,
    forget_calibration,
    weigh,
)
from edgellm.errors import FileError, UsageError, size_text
from edgellm.program.exported import DATA_FILE, MODEL_FILE
from edgellm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgellm.backends.base import Floats


def check_settings(settings: Settings, folder: Path) -> None:
    """Raise UsageError for options without an effect here, FileError for an output that cannot be written."""
    for name in ("tensor_type", "resume", "min_speed"):
        if settings[name]:
            raise UsageError(f"--{name.replace('_', '-')} is for GGUF; leave it out with --format onnx")
    if _type(settings) not in TYPES:
        raise UsageError(f"--type is {settings['type'][:40]!r}, expected one of {', '.join(TYPES)} for ONNX")
    if settings["dry_run"]:
        return
    check_output(folder, writing.write_options(settings))
    if folder.exists() and not is_ours(folder):
        raise FileError(
            f"{folder}: is no folder that was written with --format onnx, so it is not replaced; "
            "choose another name"
        )


def write(
    plan: FilePlan,
    settings: Settings,
    folder: Path,
    *,
    threads: int,
    source: str,
    digest: Callable[[], str],
    revision: str = "",
    checkpoint: Path | None = None,
) -> None:
    """Write the folder and print its path; with `--dry-run` print its contents.

    checkpoint: the folder whose tokenizer files are copied beside the model.
    """
    if settings["receipt"] and not settings["dry_run"]:
        # A missing onnxruntime must be found before the work, not after it.
        importlib.import_module("edgellm.backends.onnx")
    planned, options = plan_folder(plan, _type(settings)), writing.write_options(settings)
    if settings["dry_run"]:
        _show(planned)
        return
    int4 = _type(settings) == "INT4"
    chooses = int4 and chooses_formats(options)
    if chooses:
        check_size(planned, options)
    weigh(plan, folder, options, writing.say, int4=int4)
    if chooses:
        planned = choose_formats(planned, options, calibration_folder(folder), writing.say)
    files = checkpoint_files(checkpoint, planned.program, plan.metadata) if checkpoint else {}
    hashing = Background(digest) if settings["receipt"] else None
    done = 0
    with DownloadProgress(folder.name, "writing") as report:

        def progress(name: str, n_bytes: int) -> None:
            nonlocal done
            done += n_bytes
            if planned.n_bytes >= writing.SHOWN_BYTES:
                report(done, planned.n_bytes)

        def finish(part: Path) -> Mapping[str, Pair]:
            if hashing is None:
                return {}
            quality = _measure(planned, part, threads)
            print(quality.summary(), file=sys.stderr)
            check_limits(folder, quality, options)
            return quality_pairs(quality) | origin_pairs(source, revision, hashing.result())

        try:
            write_folder(planned, folder, files=files, threads=threads, progress=progress, finish=finish)
        finally:
            forget_calibration(folder)
    print(folder)


def _type(settings: Settings) -> str:
    kind: str | None = settings["type"]
    return "INT4" if kind is None else kind.upper()


def _measure(planned: FolderPlan, part: Path, threads: int) -> Quality:
    """Receipt: results of ONNX Runtime on the written folder, against the source's weights."""
    from edgellm.backends.onnx import OnnxBackend

    def logits(ids: Sequence[int]) -> Floats:
        n = len(ids)
        backend = OnnxBackend(
            planned.program, part / MODEL_FILE, threads=threads, n_ctx=n, cache_tokens=n, batch=n
        )
        found = np.asarray(backend.step(ids, [backend.open_sequence()] * n, [True] * n))
        backend.close()
        return found

    def each_logits(windows: Sequence[Sequence[int]]) -> Iterator[Floats]:
        return map(logits, windows)

    metadata: dict[str, Any] = {key: pair.value for key, pair in planned.source.metadata.items()}
    tokenizer = Tokenizer.from_metadata(metadata)
    return measure_logits(planned.source, planned.program, tokenizer, each_logits, threads=threads)


def _show(planned: FolderPlan) -> None:
    """Print the arrays and sizes of a dry run on standard output."""
    for weight in planned.graph.weights:
        shape = " x ".join(map(str, weight.shape))
        kind = "f32" if weight.kind is None else weight.kind.name
        print(f"{weight.name:<44} {kind:<8} {weight.n_bytes:>14}  {shape}")
    print(f"{len(planned.graph.weights)} weights, {size_text(planned.n_bytes)} in {DATA_FILE}")
