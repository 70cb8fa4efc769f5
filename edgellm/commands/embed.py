"""`edgellm embed`: embeddings of the lines of a file or of standard input, as JSON lines."""

from __future__ import annotations

import json

from edgellm.commands.lines import read_lines
from edgellm.commands.loading import find_model, load_model
from edgellm.commands.options import INT, LOADING, OFFLINE, TEXT, Command, Option, Positional
from edgellm.commands.settings import Settings

# Lines that are embedded before the first of them is printed.
_TOGETHER = 256


def run(settings: Settings) -> int:
    """Print the embedding of each line."""
    lines = read_lines(settings["file"])
    with load_model(find_model(settings["model"], settings), settings) as model:
        for start in range(0, len(lines), _TOGETHER):
            rows = model.embed(
                lines[start : start + _TOGETHER],
                prompt_name=settings["prompt_name"],
                prompt=settings["prompt"],
                dimensions=settings["dimensions"],
            )
            for row in rows:
                print(json.dumps([round(float(value), 6) for value in row]))
    return 0


COMMAND = Command(
    summary="Embed the lines of a text.",
    run=run,
    description="One line of JSON for each line of the text: an embedding of length 1.",
    positionals=(Positional("file", "text file, or - for standard input", "1"),),
    options=(
        *LOADING,
        Option("prompt_name", ("--prompt-name",), "prompt of the model's file, such as query", TEXT, "NAME"),
        Option("prompt", ("--prompt",), "text before each line instead, such as 'query: '", TEXT, "TEXT"),
        Option("dimensions", ("--dimensions",), "only the first N values, of length 1 again", INT, "N"),
        OFFLINE,
    ),
    examples=(
        ("edgellm embed -m minilm.gguf texts.txt", "a line of numbers for each line"),
        ("echo hello | edgellm embed -m minilm.gguf -", "of standard input"),
        ("edgellm embed -m embeddinggemma.gguf --prompt-name query questions.txt", "as questions"),
    ),
)
