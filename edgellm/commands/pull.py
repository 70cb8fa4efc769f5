"""`edgellm pull`: fetch a model before it is needed."""

from __future__ import annotations

from edgellm.commands.loading import find_model
from edgellm.commands.options import OFFLINE, Command, Positional
from edgellm.commands.settings import Settings


def run(settings: Settings) -> int:
    """Fetch each named model, the default one if none is named, and print its path."""
    for name in settings["names"] or [None]:
        print(find_model(name, settings))
    return 0


COMMAND = Command(
    summary="Fetch a model.",
    run=run,
    description="Fetches models and prints where they are. An interrupted download goes on where it ended,\n"
    "and every file of the catalog is checked against its SHA-256.",
    positionals=(Positional("names", "name (`edgellm list`), user/repo:QUANT, or user/repo/file.gguf", "*"),),
    options=(OFFLINE,),
    examples=(
        ("edgellm pull", "the default model"),
        ("edgellm pull gemma-3-270m", "a model of the catalog"),
        ("edgellm pull user/repo:Q4_K_M", "a quantization of a repository on the Hub"),
    ),
)
