"""`edgellm export`: a copy of a model for programs in C."""

from __future__ import annotations

from pathlib import Path

from edgellm.commands import writing
from edgellm.commands.options import CONTEXT, OFFLINE, SWITCH, Command, Option, Positional
from edgellm.commands.progress import DownloadProgress
from edgellm.commands.settings import Settings
from edgellm.convert.exporting import export
from edgellm.engine.load_options import LARGEST_DEFAULT
from edgellm.engine.planning import largest_default
from edgellm.errors import FileError, UsageError
from edgellm.families import trained_context
from edgellm.gguf.reader import GGUFFile
from edgellm.store.resolve import resolve


def run(settings: Settings) -> int:
    """Write the copy and print its path."""
    source, output = resolve(settings["source"], offline=settings["offline"]), Path(settings["output"])
    if output.exists() and not settings["overwrite"]:
        raise FileError(f"{output}: exists already, expected a new file; choose another name or --overwrite")
    if not output.parent.is_dir():
        raise FileError(f"{output}: there is no folder {output.parent}, expected one; create it first")
    with GGUFFile.open(source, guarded=True) as file, DownloadProgress(output.name, "writing") as progress:
        context = _context(file, settings["context"])

        def report(done: int, total: int) -> None:
            if total >= writing.SHOWN_BYTES:
                progress(done, total)

        for reason in export(file, output, context, report):
            writing.say(f"Without Python this part cannot be used: {reason}.")
    print(output)
    return 0


def _context(file: GGUFFile, wanted: int | None) -> int:
    """Context of the program; UsageError for more than the model was trained with."""
    trained = trained_context(file.metadata)
    if wanted is None:
        # A program of LongRoPE is good for one of two lengths only.
        usual = largest_default(file, trained)
        return trained if usual == min(trained, LARGEST_DEFAULT) else usual
    if wanted > trained:
        raise UsageError(
            f"--context is {wanted}, and the model was trained with {trained}; give at most that"
        )
    return wanted or trained


COMMAND = Command(
    summary="Write a copy of a model for programs in C.",
    run=run,
    description="Writes a copy of a model that holds its program, the rules of its tokenizer and the texts\n"
    "of its chat template, so that edgellm's C library runs it without Python. Tensors stay as they are.",
    positionals=(
        Positional("source", "path of a GGUF file, name, or user/repo:QUANT", "1"),
        Positional("output", "GGUF file to write", "1"),
    ),
    options=(
        CONTEXT,
        Option("overwrite", ("--overwrite",), "replace the output if it exists", SWITCH, default=False),
        OFFLINE,
    ),
    examples=(("edgellm export model.gguf device.gguf", "for a phone's application"),),
)
