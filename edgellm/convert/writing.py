"""Writing a planned file: importances, the output's checks, the receipt and its limits, interrupted work."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgellm.convert.importance import check_fits, collect, read_statistics, text_ids
from edgellm.convert.pipeline import FilePlan, write
from edgellm.convert.receipt import Quality, measure, reserve, source_weights, store
from edgellm.convert.vocabulary import sample_lines
from edgellm.errors import FileError, ModelError, UsageError
from edgellm.families.registry import build
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.writer import GGUFWriter
from edgellm.tokenizer import Tokenizer

Say = Callable[[str], None]
# Bytes done, bytes in all.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """How to write a file.

    threads: of the encoders. calibrate: text file whose use of the weights weighs their errors, or
    "default"; imatrix: file of such weights. resume: go on with interrupted work of the same `identity`.
    overwrite: replace a file. receipt: compare the result with its source; min_top1, max_kld: its limits.
    """

    threads: int
    calibrate: str | None = None
    imatrix: str | None = None
    resume: bool = False
    overwrite: bool = False
    receipt: bool = True
    min_top1: float | None = None
    max_kld: float | None = None
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """Source of a file, for its receipt: name, revision on the Hub, and a function for its SHA-256."""

    name: str
    revision: str
    digest: Callable[[], str]


def check_output(path: Path, options: WriteOptions) -> None:
    """Raise FileError for an output that exists or has no folder, UsageError for limits without a receipt."""
    if (options.min_top1 is not None or options.max_kld is not None) and not options.receipt:
        raise UsageError("--min-top1 and --max-kld need the receipt; leave out --no-receipt")
    if path.exists() and not options.overwrite:
        raise FileError(f"{path}: exists already, expected a new file; choose another name or --overwrite")
    if not path.parent.is_dir():
        raise FileError(f"{path}: there is no folder {path.parent}, expected one; create it first")


def weigh(plan: FilePlan, options: WriteOptions, say: Say) -> None:
    """Give the tensors of a plan the importances of `calibrate` or `imatrix`."""
    if options.imatrix is not None:
        path = Path(options.imatrix)
        importance = read_statistics(path).importance()
        check_fits(importance, {tensor.name: tensor.shape for tensor in plan.tensors}, path)
    elif options.calibrate is not None:
        metadata: dict[str, Any] = {key: pair.value for key, pair in plan.metadata.items()}
        shapes = {tensor.name: tensor.shape for tensor in plan.tensors}
        tokenizer = Tokenizer.from_metadata(metadata)
        if options.calibrate == "default":
            ids = tokenizer.encode("\n".join(sample_lines()))
        else:
            ids = text_ids(Path(options.calibrate), tokenizer)
        say("collecting how much each column matters")
        importance = collect(build(metadata, shapes), source_weights(plan), ids).importance()
    else:
        return
    plan.tensors = [replace(tensor, importance=importance.get(tensor.name)) for tensor in plan.tensors]


def write_with_receipt(
    plan: FilePlan, path: Path, options: WriteOptions, origin: Origin, say: Say, report: Progress
) -> Quality | None:
    """Write the file and its receipt, of which `say` gets the summary; None without a receipt.

    Raises ModelError, and leaves no file under the final name, if the receipt misses a limit.
    """
    hashing = Background(origin.digest) if options.receipt else None
    found: list[Quality] = []

    def finish(writer: GGUFWriter) -> None:
        if hashing is None:
            return
        with GGUFFile.open(writer.part) as file:
            quality = measure(plan, file, threads=options.threads)
        found.append(quality)
        say(quality.summary())
        check_limits(path, quality, options)
        store(writer, plan, quality, hashing.result())

    if options.receipt:
        reserve(plan, source=origin.name, revision=origin.revision)
    if not options.resume:
        _forget(path)
    done, total = 0, plan.n_bytes

    def progress(name: str, n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        report(done, total)

    inputs = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in plan.inputs]
    token = f"{inputs} {options.identity}"
    try:
        write(plan, path, threads=options.threads, resume=token, progress=progress, finish=finish)
    except (FileError, KeyboardInterrupt):
        if path.with_name(path.name + ".part").exists():
            say("What is done is kept; go on with --resume.")
        raise
    except BaseException:
        _forget(path)
        raise
    return found[0] if found else None


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _forget(path: Path) -> None:
    """Remove the files of an interrupted run."""
    try:
        for suffix in (".part", ".part.state"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise FileError(
            f"{path}.part: cannot be removed ({error.strerror}); check the folder's permissions"
        ) from None


def check_limits(path: Path, quality: Quality, options: WriteOptions) -> None:
    """Raise ModelError if a receipt misses `min_top1` or `max_kld`."""
    least, most = options.min_top1, options.max_kld
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
