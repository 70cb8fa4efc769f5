"""`edgellm rerank`: texts of files, or lines of one, ordered by how well they fit a query."""

from __future__ import annotations

import json
import sys

from edgellm.commands.lines import read_lines, read_text
from edgellm.commands.loading import find_model, load_model
from edgellm.commands.options import INT, JSON, LOADING, OFFLINE, Command, Option, Positional
from edgellm.commands.settings import Settings
from edgellm.errors import UsageError


def run(settings: Settings) -> int:
    """Print scores and texts, or names of files, the best first."""
    names = settings["files"]
    if settings["top"] is not None and settings["top"] < 1:
        raise UsageError(f"--top is {settings['top']}, expected at least 1")
    texts = read_lines(names[0]) if len(names) == 1 else [read_text(name) for name in names]
    shown = texts if len(names) == 1 else names
    with load_model(find_model(settings["model"], settings), settings) as model:
        ranked = model.rerank(settings["query"], texts, settings["top"])
    for entry in ranked:
        if settings["json"]:
            found = {"index": entry.index, "score": entry.score, "text": shown[entry.index]}
            print(json.dumps(found, ensure_ascii=False))
        else:
            sys.stdout.write(f"{entry.score:.4f}  {shown[entry.index]}\n")
    return 0


COMMAND = Command(
    summary="Order texts by how well they fit a query.",
    run=run,
    description="Of one file each line is a text; of several each file is one. The best comes first, with a "
    "score of 0 to 1.",
    positionals=(
        Positional("query", "words to look for", "1"),
        Positional("files", "text files, or - for standard input", "+"),
    ),
    options=(
        *LOADING,
        Option("top", ("--top",), "only the N best", INT, "N"),
        JSON,
        OFFLINE,
    ),
    examples=(
        ('edgellm rerank -m bge-reranker-v2-m3.gguf "what is a panda?" lines.txt', "lines of a file"),
        ('edgellm rerank -m bge-reranker-v2-m3.gguf "tides" *.txt --top 3', "the three best files"),
    ),
)
