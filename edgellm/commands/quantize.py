"""`edgellm quantize`: a GGUF file in other formats."""

from __future__ import annotations

from pathlib import Path

from edgellm.commands import writing
from edgellm.commands.options import Command, Positional
from edgellm.commands.settings import Settings
from edgellm.convert.recipes import recipe
from edgellm.convert.requantize import plan_requantization
from edgellm.convert.writing import Origin, check_output, sha256, weigh
from edgellm.errors import FileError
from edgellm.gguf.reader import GGUFFile


def run(settings: Settings) -> int:
    """Write the file in the new format and print its path."""
    source, chosen = Path(settings["source"]), recipe(settings["type"])
    options = writing.write_options(settings)
    output = writing.chosen_output(source.name.removesuffix(".gguf"), chosen.name, ".gguf", settings)
    if output.exists() and source.exists() and output.samefile(source):
        raise FileError(f"{output}: is also the input, expected another file; choose another output")
    if not settings["dry_run"]:
        check_output(output, options)
    with GGUFFile.open(source) as file:
        plan = plan_requantization(
            file, chosen, threads=options.threads, overrides=writing.overrides(settings)
        )
        writing.embed_program(plan, settings)
        if settings["dry_run"]:
            writing.show_plan(plan)
            return 0
        weigh(plan, output, options, writing.say)
        writing.write(plan, output, options, Origin(source.name, "", lambda: sha256(source)))
    print(output)
    return 0


COMMAND = Command(
    summary="Write a GGUF file in other formats.",
    run=run,
    description="Reads a GGUF file, best one in F32, F16 or BF16, and writes it in another format. The\n"
    "result is compared with the input: what it lost is printed, and stored in the file.",
    positionals=(
        Positional("source", "GGUF file to read", "1"),
        Positional("output", "GGUF file to write; otherwise NAME-TYPE.gguf in this folder"),
    ),
    options=writing.OPTIONS,
    examples=(
        ("edgellm quantize in.gguf out.gguf", "to Q4_K_M"),
        ("edgellm quantize in.gguf out.gguf --type Q6_K", "to another type"),
        ("edgellm quantize in.gguf out.gguf --dry-run", "formats and sizes only"),
    ),
)
