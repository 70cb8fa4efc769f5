"""Grammar, parser and template held against each other over random tools and arguments.

    python -m tests.call_agreement [-n 100] [TEMPLATE.jinja ...]

Takes the templates of tests/data/templates, and those of ../shared/templates where the folder is there; of
templates that write calls alike only one. Prints each disagreement; the exit status is 1 if there is one.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from edgellm.chat.learning import learn
from edgellm.chat.probing import Prober
from edgellm.chat.syntax import Syntax
from edgellm.chat.turns import Turns
from edgellm.engine.grammar import GrammarCompiler
from tests.support.calls import disagreement
from tests.support.paths import SHARED, TEMPLATES
from tests.support.vocabularies import tokenizer


def distinct(paths: Iterable[Path]) -> dict[str, tuple[str, Syntax]]:
    """Source and syntax of the first template of each learned way of writing calls, by its name."""
    found: dict[Syntax, tuple[str, str, Syntax]] = {}
    for path in paths:
        source = path.read_bytes().decode()
        syntax = learn(source)
        if syntax.writes:
            calls = replace(syntax, header="", prompt_end="", turn_end="", think_close="", native=False)
            found.setdefault(calls, (path.stem, source, syntax))
    return {name: (source, syntax) for name, source, syntax in found.values()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-n", type=int, default=100, help="random tools and arguments for each syntax")
    parser.add_argument("templates", nargs="*", type=Path)
    given = parser.parse_args()
    folders = (TEMPLATES, SHARED / "templates")
    paths = given.templates or [path for folder in folders for path in sorted(folder.glob("*.jinja"))]
    vocabulary = tokenizer("llama-bpe")
    compiler = GrammarCompiler(vocabulary)
    failed = 0
    for name, (source, syntax) in distinct(paths).items():
        begun = time.process_time()
        turns = Turns(Prober(source))
        found = (
            disagreement(compiler, vocabulary, turns, syntax, random.Random(seed)) for seed in range(given.n)
        )
        faults = [fault for fault in found if fault is not None]
        failed += len(faults)
        print(
            f"{name}: {given.n - len(faults)} of {given.n}, {time.process_time() - begun:.1f} s", flush=True
        )
        for fault in faults[:3]:
            print("   ", fault)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
