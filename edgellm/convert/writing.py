"""Writing a planned file: what errors count, checks of the output, its receipt and limits, resumed work."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from edgellm.convert.allocation import Pace
from edgellm.convert.calibrating import (
    Say,
    calibrate_fully,
    check_budget,
    choose_formats,
    plan_program,
    weigh_quickly,
)
from edgellm.convert.importance import check_fits, read_statistics
from edgellm.convert.pipeline import FilePlan, header_bytes, write
from edgellm.convert.quality import Quality
from edgellm.convert.receipt import measure, reserve, store
from edgellm.convert.recipes import FLOATS
from edgellm.errors import FileError, ModelError, UsageError
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import GGMLType
from edgellm.gguf.writer import GGUFWriter
from edgellm.program import Program

# Most that a receipt takes in the metadata.
RECEIPT_BYTES = 2048
# Bytes done, bytes in all.
Progress = Callable[[int, int], None]
# Time of a program's matrices on this machine at a wanted speed, by their shapes and present formats.
PaceOf = Callable[[Program, Mapping[str, GGMLType]], Pace]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOptions:
    """How to write a file.

    threads: of the encoders. calibrate: text file by which errors are made up for, or "default": the bundled
    text alone. best: choose formats by it, too, in the bytes that the type takes, a file of `size` bytes, or
    `bpw` bits per weight. min_speed: in tokens a second, which formats have to be fast enough for, by the
    machine's `pace`. imatrix: file of importances. fast: read no text. resume: go on with interrupted work of
    the same `identity`. overwrite: replace a file. receipt: compare the result with its source; min_top1,
    max_kld: its limits.
    """

    threads: int
    calibrate: str | None = None
    best: bool = False
    size: int | None = None
    bpw: float | None = None
    min_speed: float | None = None
    pace: PaceOf | None = None
    imatrix: str | None = None
    fast: bool = False
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


def weigh(plan: FilePlan, output: Path, options: WriteOptions, say: Say, *, int4: bool = False) -> None:
    """Say what errors of a plan's tensors count: by importances, a text, or a short text of ours.

    int4: the tensors are written in formats of ONNX, whatever the plan says, and others choose these. Raises
    UsageError for options that contradict each other.
    """
    for note in plan.notes:
        say(note)
    plain = not int4 and all(tensor.type in FLOATS for tensor in plan.tensors)
    chooses = chooses_formats(options)
    _check_ways(options, plain=plain, chooses=chooses)
    if plain or options.fast:
        return
    if options.imatrix is not None:
        path = Path(options.imatrix)
        importance = read_statistics(path).importance()
        check_fits(importance, {tensor.name: tensor.shape for tensor in plan.tensors}, path)
        plan.tensors = [replace(tensor, importance=importance.get(tensor.name)) for tensor in plan.tensors]
    elif options.calibrate is None and not chooses:
        weigh_quickly(plan, options.threads, say)
    else:
        given = options.calibrate or "default"
        text, folder = None if given == "default" else Path(given), calibration_folder(output)
        chooses = chooses and not int4
        budget = _budget(plan, options)
        pace = None
        if options.pace is not None:
            pace = options.pace(plan_program(plan), {tensor.name: tensor.type for tensor in plan.tensors})
        if chooses:
            check_budget(plan, budget, pace)
        calibrate_fully(plan, text, folder, _token(plan, options), options.threads, say)
        if chooses:
            choose_formats(plan, budget, folder, options.threads, say, pace)


def chooses_formats(options: WriteOptions) -> bool:
    """True if the options ask for formats of their own."""
    return options.best or any(each is not None for each in (options.size, options.bpw, options.min_speed))


def _check_ways(options: WriteOptions, *, plain: bool, chooses: bool) -> None:
    """Raise UsageError for two options of which one would be ignored."""
    ways = [name for name in ("fast", "imatrix") if getattr(options, name)]
    ways += [name for name in ("calibrate", "best", "size", "bpw", "min_speed") if getattr(options, name)][:1]
    sizes = [name for name in ("size", "bpw") if getattr(options, name) is not None]
    for names in (ways, sizes):
        if len(names) > 1:
            raise UsageError(f"--{names[0]} and --{names[1]} exclude each other; leave one out")
    if plain and chooses:
        raise UsageError(
            "--best, --size, --bpw and --min-speed are for quantized types; choose another --type"
        )


def _budget(plan: FilePlan, options: WriteOptions) -> int:
    """Bytes of all tensors: of a file's size, of bits per weight, or as the type has them."""
    if options.size is not None:
        return options.size - header_bytes(plan) - (RECEIPT_BYTES if options.receipt else 0)
    if options.bpw is not None:
        return int(options.bpw * sum(prod(tensor.shape) for tensor in plan.tensors) / 8)
    return plan.n_bytes


def calibration_folder(path: Path) -> Path:
    """Folder for what a calibration finds, until the file is written."""
    return path.with_name(path.name + ".calibration")


def forget_calibration(path: Path) -> None:
    """Remove what a calibration for the file or folder has found."""
    shutil.rmtree(calibration_folder(path), ignore_errors=True)


def _token(plan: FilePlan, options: WriteOptions) -> str:
    """Identity of a work, so that only its own partial results are resumed."""
    inputs = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in plan.inputs]
    return f"{inputs} {options.identity}"


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
            quality = measure(plan, file, calibration_folder(path) / "plain.gguf", threads=options.threads)
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

    try:
        write(
            plan,
            path,
            threads=options.threads,
            resume=_token(plan, options),
            progress=progress,
            finish=finish,
        )
    except (FileError, KeyboardInterrupt):
        if path.with_name(path.name + ".part").exists():
            say("What is done is kept; go on with --resume.")
        raise
    except BaseException:
        _forget(path)
        forget_calibration(path)
        raise
    forget_calibration(path)
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
