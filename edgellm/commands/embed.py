"""`edgellm embed`: embeddings of the lines of a file or of standard input, as JSON lines."""

from __future__ import annotations

import json

from edgellm.commands.lines import read_lines
from edgellm.commands.loading import find_model, load_model
from edgellm.commands.options import INT, LOADING, OFFLINE, TEXT, Command, Option, Positional
from edgellm.commands.settings import Settings
from edgellm.errors import UsageError

# Lines that are embedded before the first of them is printed.
_TOGETHER = 64


def run(settings: Settings) -> int:
    """Print the embedding of each line."""
    import numpy as np

    lines = [settings["prompt"] + line for line in read_lines(settings["file"])]
    with load_model(find_model(settings["model"], settings), settings) as model:
        for start in range(0, len(lines), _TOGETHER):
            rows = model.embed(lines[start : start + _TOGETHER])
            if (n := settings["dimensions"]) is not None:
                if not 1 <= n <= rows.shape[1]:
                    raise UsageError(f"--dimensions is {n}, expected 1 to {rows.shape[1]}")
                rows = rows[:, :n] / np.maximum(np.linalg.norm(rows[:, :n], axis=1, keepdims=True), 1e-12)
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
        Option("prompt", ("--prompt",), "text before each line, such as 'query: '", TEXT, "TEXT", default=""),
        Option("dimensions", ("--dimensions",), "only the first N values, of length 1 again", INT, "N"),
        OFFLINE,
    ),
    examples=(
        ("edgellm embed -m minilm.gguf texts.txt", "a line of numbers for each line"),
        ("echo hello | edgellm embed -m minilm.gguf -", "of standard input"),
    ),
)
