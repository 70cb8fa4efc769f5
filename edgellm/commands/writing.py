"""Common parts of `convert` and `quantize`: options, dry run, progress."""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

from edgellm.commands.fit import rate_book
from edgellm.commands.options import BYTES, FLOAT, SWITCH, TEXT, THREADS, Option
from edgellm.commands.pace import pace_of
from edgellm.commands.progress import DownloadProgress
from edgellm.commands.settings import Settings
from edgellm.convert.embedded import embedded, missing
from edgellm.convert.pipeline import FilePlan
from edgellm.convert.quality import Quality
from edgellm.convert.recipes import RECIPES, Override, parse_override
from edgellm.convert.writing import Origin, WriteOptions, write_with_receipt
from edgellm.device.cores import default_threads
from edgellm.errors import UsageError, size_text

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
    Option(
        "calibrate",
        ("--calibrate",),
        "make up for errors as a text needs it: your text and ours, or `default`: ours",
        TEXT,
        "FILE",
    ),
    Option("best", ("--best",), "as --calibrate, and choose formats within the size", SWITCH, default=False),
    Option("size", ("--size",), "as --best, for a file of that size, such as 900M", BYTES, "SIZE"),
    Option("bpw", ("--bpw",), "as --best, for so many bits per weight, such as 4.2", FLOAT, "BITS"),
    Option(
        "min_speed",
        ("--min-speed",),
        "as --best, with formats that are predicted to answer here with so many tokens a second",
        FLOAT,
        "TOK/S",
    ),
    Option("imatrix", ("--imatrix",), "weigh errors by a file of `edgellm eval imatrix`", TEXT, "FILE"),
    Option("fast", ("--fast",), "read no text first: all errors count the same", SWITCH, default=False),
    THREADS,
    Option("dry_run", ("--dry-run",), "show formats and sizes, write nothing", SWITCH, default=False),
    Option("resume", ("--resume",), "go on where an interrupted run ended", SWITCH, default=False),
    Option("overwrite", ("--overwrite",), "replace the output if it exists", SWITCH, default=False),
    Option(
        "embed_program",
        ("--embed-program",),
        "store what edgellm's C library needs, as `edgellm export` does",
        SWITCH,
        default=False,
    ),
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


def write_options(settings: Settings) -> WriteOptions:
    """How to write, of the command line."""
    reads = ("calibrate", "best", "size", "bpw", "min_speed", "imatrix", "fast")
    works = ("type", "tensor_type", "merge_lora", "base", *reads)
    shared = (*reads, "resume", "overwrite", "receipt", "min_top1", "max_kld")
    threads, speed = n_threads(settings), settings["min_speed"]
    return WriteOptions(
        threads=threads,
        pace=None if speed is None else pace_of(speed, threads, rate_book()),
        identity=str([settings.values.get(name) for name in works]),
        **{name: settings[name] for name in shared},
    )


def embed_program(plan: FilePlan, settings: Settings) -> None:
    """Put the program and what goes with it into a plan's metadata, if the command line asks for it."""
    if not settings["embed_program"]:
        return
    pairs = embedded(
        {key: pair.value for key, pair in plan.metadata.items()},
        {tensor.name: tensor.shape for tensor in plan.tensors},
    )
    plan.metadata |= pairs
    for reason in missing(pairs):
        say(f"Without Python this part cannot be used: {reason}.")


def say(text: str) -> None:
    """Print a line for the user."""
    print(text, file=sys.stderr)


def chosen_output(name: str, kind: str, suffix: str, settings: Settings) -> Path:
    """The output that the settings name, or else one in this folder: the model's name and the type."""
    if settings["output"] is not None:
        return Path(settings["output"])
    stem = re.sub(rf"[-.](?:{'|'.join(RECIPES)})$", "", name, flags=re.IGNORECASE)
    output = Path(f"{stem}-{kind.upper()}{suffix}")
    say(f"the output is {output}; a name after the source chooses another")
    return output


def write(plan: FilePlan, path: Path, options: WriteOptions, origin: Origin) -> Quality | None:
    """Write the file and its receipt with progress, and print the receipt."""
    with DownloadProgress(path.name, "writing") as progress:

        def report(done: int, total: int) -> None:
            if total >= SHOWN_BYTES:
                progress(done, total)

        return write_with_receipt(plan, path, options, origin, say, report)


def show_plan(plan: FilePlan) -> None:
    """Print the formats and sizes of a dry run on standard output."""
    for tensor in plan.tensors:
        shape = " x ".join(map(str, tensor.shape))
        print(f"{tensor.name:<44} {tensor.type.name:<8} {tensor.n_bytes:>14}  {shape}")
    for note in plan.notes:
        say(note)
    counts = Counter(tensor.type.name for tensor in plan.tensors)
    kinds = ", ".join(f"{n} {name}" for name, n in counts.most_common())
    print(f"{len(plan.tensors)} tensors ({kinds}), {size_text(plan.n_bytes)}")
