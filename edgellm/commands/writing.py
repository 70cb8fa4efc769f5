"""Common parts of `convert` and `quantize`: options, dry run, writing with progress, receipt."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgellm.commands.options import FLOAT, SWITCH, TEXT, THREADS, Option
from edgellm.commands.progress import DownloadProgress
from edgellm.commands.settings import Settings
from edgellm.convert.importance import check_fits, collect, read_statistics, text_ids
from edgellm.convert.pipeline import FilePlan, write
from edgellm.convert.receipt import Quality, measure, reserve, source_weights, store
from edgellm.convert.recipes import RECIPES, Override, parse_override
from edgellm.convert.vocabulary import sample_lines
from edgellm.device.cores import default_threads
from edgellm.errors import FileError, ModelError, UsageError
from edgellm.families.registry import build
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.writer import GGUFWriter
from edgellm.tokenizer import Tokenizer

# Smaller files are written too fast for a progress bar.
SHOWN_BYTES = 50_000_000

OPTIONS = (
    Option("type", ("--type",), f"one of {', '.join(RECIPES)}", TEXT, "TYPE", default="Q4_K_M"),
    Option(
        "tensor_type",
        ("--tensor-type",),
        "format of the tensors whose names match, such as ffn_down=Q6_K (may be repeated)",
        TEXT,
        "REGEX=TYPE",
        repeated=True,
    ),
    Option("calibrate", ("--calibrate",), "weigh errors by what a text uses (`default`: ours)", TEXT, "FILE"),
    Option("imatrix", ("--imatrix",), "weigh errors by a file of `edgellm eval imatrix`", TEXT, "FILE"),
    THREADS,
    Option("dry_run", ("--dry-run",), "show formats and sizes, write nothing", SWITCH, default=False),
    Option("resume", ("--resume",), "go on where an interrupted run ended", SWITCH, default=False),
    Option("overwrite", ("--overwrite",), "replace the output if it exists", SWITCH, default=False),
    Option("receipt", ("--receipt",), "compare the result with its source (default)", SWITCH, default=True),
    Option("min_top1", ("--min-top1",), "fail if fewer choices agree with the source's", FLOAT, "SHARE"),
    Option("max_kld", ("--max-kld",), "fail if the divergence from the source is larger", FLOAT, "NATS"),
)  # fmt: skip


def overrides(settings: Settings) -> list[Override]:
    """Overrides of the `--tensor-type` options."""
    return [parse_override(text) for text in settings["tensor_type"] or ()]


def n_threads(settings: Settings) -> int:
    """Number of threads; UsageError for less than one."""
    threads: int = default_threads() if settings["threads"] is None else settings["threads"]
    if threads < 1:
        raise UsageError(f"--threads is {threads}, expected at least 1")
    return threads


def check_output(path: Path, settings: Settings) -> None:
    """Raise FileError for an output that exists or has no folder, UsageError for limits without a receipt."""
    if (settings["min_top1"] is not None or settings["max_kld"] is not None) and not settings["receipt"]:
        raise UsageError("--min-top1 and --max-kld need the receipt; leave out --no-receipt")
    if path.exists() and not settings["overwrite"]:
        raise FileError(f"{path}: exists already, expected a new file; choose another name or --overwrite")
    if not path.parent.is_dir():
        raise FileError(f"{path}: there is no folder {path.parent}, expected one; create it first")


def weigh(plan: FilePlan, settings: Settings) -> None:
    """Give the tensors of a plan the importances of `--calibrate` or `--imatrix`."""
    if settings["imatrix"] is not None:
        path = Path(settings["imatrix"])
        importance = read_statistics(path).importance()
        check_fits(importance, {tensor.name: tensor.shape for tensor in plan.tensors}, path)
    elif settings["calibrate"] is not None:
        metadata: dict[str, Any] = {key: pair.value for key, pair in plan.metadata.items()}
        shapes = {tensor.name: tensor.shape for tensor in plan.tensors}
        tokenizer = Tokenizer.from_metadata(metadata)
        if settings["calibrate"] == "default":
            ids = tokenizer.encode("\n".join(sample_lines()))
        else:
            ids = text_ids(Path(settings["calibrate"]), tokenizer)
        print("collecting how much each column matters", file=sys.stderr)
        importance = collect(build(metadata, shapes), source_weights(plan), ids).importance()
    else:
        return
    plan.tensors = [replace(tensor, importance=importance.get(tensor.name)) for tensor in plan.tensors]


def show_plan(plan: FilePlan) -> None:
    """Print the formats and sizes of a dry run on standard output."""
    for tensor in plan.tensors:
        shape = " x ".join(map(str, tensor.shape))
        print(f"{tensor.name:<44} {tensor.type.name:<8} {tensor.n_bytes:>14}  {shape}")
    counts = Counter(tensor.type.name for tensor in plan.tensors)
    kinds = ", ".join(f"{n} {name}" for name, n in counts.most_common())
    print(f"{len(plan.tensors)} tensors ({kinds}), {plan.n_bytes / 1e6:.1f} MB")


def write_with_receipt(
    plan: FilePlan,
    path: Path,
    settings: Settings,
    *,
    threads: int,
    source: str,
    revision: str,
    digest: Callable[[], str],
) -> Quality | None:
    """Write the file and its receipt, which is printed to standard error; None without a receipt.

    Raises ModelError, and leaves no file under the final name, if the receipt misses a limit.
    """
    hashing = Background(digest) if settings["receipt"] else None
    found: list[Quality] = []

    def finish(writer: GGUFWriter) -> None:
        if hashing is None:
            return
        with GGUFFile.open(writer.part) as file:
            quality = measure(plan, file, threads=threads)
        found.append(quality)
        print(quality.summary(), file=sys.stderr)
        check_limits(path, quality, settings)
        store(writer, plan, quality, hashing.result())

    if settings["receipt"]:
        reserve(plan, source=source, revision=revision)
    if not settings["resume"]:
        _forget(path)
    done, total = 0, plan.n_bytes
    with DownloadProgress(path.name, "writing") as report:

        def progress(name: str, n_bytes: int) -> None:
            nonlocal done
            done += n_bytes
            if total >= SHOWN_BYTES:
                report(done, total)

        try:
            write(
                plan, path, threads=threads, resume=_token(plan, settings), progress=progress, finish=finish
            )
        except (FileError, KeyboardInterrupt):
            if path.with_name(path.name + ".part").exists():
                print("What is done is kept; go on with --resume.", file=sys.stderr)
            raise
        except BaseException:
            _forget(path)
            raise
    return found[0] if found else None


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _token(plan: FilePlan, settings: Settings) -> str:
    """Identity of this work, so that only its own partial tensors are resumed."""
    inputs = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in plan.inputs]
    chosen = [
        settings.values.get(name)
        for name in ("type", "tensor_type", "merge_lora", "base", "calibrate", "imatrix")
    ]
    return f"{inputs} {chosen}"


def _forget(path: Path) -> None:
    """Remove the files of an interrupted run."""
    try:
        for suffix in (".part", ".part.state"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise FileError(
            f"{path}.part: cannot be removed ({error.strerror}); check the folder's permissions"
        ) from None


def check_limits(path: Path, quality: Quality, settings: Settings) -> None:
    """Raise ModelError if a receipt misses `--min-top1` or `--max-kld`."""
    least, most = settings["min_top1"], settings["max_kld"]
    if least is not None and quality.top1 < least and not quality.cosine:
        raise ModelError(
            f"{path}: {quality.top1:.4f} of the choices agree with the source, expected at least {least}; "
            "choose a larger type"
        )
    if most is not None and quality.kld > most:
        raise ModelError(
            f"{path}: the divergence from the source is {quality.kld:.4f}, expected at most {most}; "
            "choose a larger type"
        )


class Background:
    """Computes a text on a thread of its own."""

    def __init__(self, work: Callable[[], str]) -> None:
        self._work = work
        self._result: str | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="edgellm-digest", daemon=True)
        self._thread.start()

    def result(self) -> str:
        """The text; raises the error of the computation."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error
