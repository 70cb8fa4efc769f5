"""Conversions as one call each: a checkpoint to a GGUF file, and a GGUF file in other formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgellm.convert.calibrating import Say
from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.lora import read_adapter
from edgellm.convert.quality import Quality
from edgellm.convert.recipes import Override, parse_override, recipe
from edgellm.convert.requantize import plan_requantization
from edgellm.convert.source import plan_conversion
from edgellm.convert.writing import (
    Origin,
    Progress,
    WriteOptions,
    check_output,
    sha256,
    weigh,
    write_with_receipt,
)
from edgellm.errors import FileError
from edgellm.gguf.reader import GGUFFile


@dataclass(frozen=True, slots=True)
class Written:
    """A written file, and its receipt (None without one)."""

    path: Path
    quality: Quality | None


def overrides_of(types: Mapping[str, str]) -> list[Override]:
    """Overrides of tensors' formats; keys are regular expressions of their names."""
    return [parse_override(f"{pattern}={kind}") for pattern, kind in types.items()]


def convert_folder(
    folder: Path,
    revision: str,
    output: Path,
    kind: str,
    options: WriteOptions,
    *,
    name: str | None,
    source: str,
    tensor_types: Mapping[str, str],
    lora: Sequence[Path],
    say: Say,
    report: Progress,
) -> Written:
    """Convert a checkpoint's folder; see `edgellm.convert`. source: its name in the receipt."""
    chosen = recipe(kind)
    check_output(output, options)
    checkpoint = Checkpoint(folder)
    for adapter in lora:
        checkpoint.tensors.add(read_adapter(adapter))
    plan = plan_conversion(
        checkpoint, chosen, threads=options.threads, name=name, overrides=overrides_of(tensor_types)
    )
    weigh(plan, output, options, say)
    origin = Origin(source, revision, checkpoint.tensors.sha256)
    return Written(output, write_with_receipt(plan, output, options, origin, say, report))


def quantize_file(
    source: Path,
    output: Path,
    kind: str,
    options: WriteOptions,
    *,
    tensor_types: Mapping[str, str],
    say: Say,
    report: Progress,
) -> Written:
    """Write a GGUF file in other formats; see `edgellm.quantize`."""
    chosen = recipe(kind)
    if output.exists() and source.exists() and output.samefile(source):
        raise FileError(f"{output}: is also the input, expected another file; choose another output")
    check_output(output, options)
    with GGUFFile.open(source) as file:
        plan = plan_requantization(
            file, chosen, threads=options.threads, overrides=overrides_of(tensor_types)
        )
        weigh(plan, output, options, say)
        origin = Origin(source.name, "", lambda: sha256(source))
        return Written(output, write_with_receipt(plan, output, options, origin, say, report))
