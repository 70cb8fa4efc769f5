"""Openings of docstrings and comments: they begin with the noun of the fact, not with a question word."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from tests.support.paths import ROOT

FOLDERS = ("edgellm", "native", "tests", "bench", "docs")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
QUESTION = re.compile(r"(What|Whether|Which|Where|Who)\b")
# A comment of C++ or JavaScript to the end of its line, or the first line of a block comment.
COMMENT = re.compile(r"(?<![:\w])(?://+|/\*+)\s*(.*)")
# Such openings that are left, each on purpose.
ALLOWED = 4


def python_openings(text: str) -> Iterator[tuple[int, str]]:
    """(line, first line of the text) of each docstring and each comment; a block is one comment."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and (docstring := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), docstring.split("\n")[0]
    previous = -1
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            if not alone or token.start[0] != previous + 1:
                yield token.start[0], token.string.lstrip("# ")
            previous = token.start[0] if alone else -1


def native_openings(text: str) -> Iterator[tuple[int, str]]:
    """The same of a source file in C++ or JavaScript."""
    previous = -1
    for number, line in enumerate(text.split("\n"), 1):
        found = COMMENT.search(line)
        if found is None:
            continue
        alone = not line[: found.start()].strip()
        if not alone or number != previous + 1:
            yield number, found.group(1)
        previous = number if alone else -1


def openings(path: Path) -> Iterator[tuple[int, str]]:
    text = path.read_text(encoding="utf-8")
    return python_openings(text) if path.suffix in (".py", ".pyi") else native_openings(text)


def sources() -> list[Path]:
    kinds = {".py", ".pyi", ".h", ".cc", ".inc", ".js"}
    return sorted(path for name in FOLDERS for path in (ROOT / name).rglob("*") if path.suffix in kinds)


def test_few_docstrings_and_comments_open_with_a_question_word() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {opening}"
        for path in sources()
        for line, opening in openings(path)
        if QUESTION.match(opening)
    ]
    assert len(found) <= ALLOWED, "\n".join(found)


def test_openings_are_found_in_python() -> None:
    text = '"""What a module."""\n# Which one\n# Who is inside the block\nx = 1  # Where\n'
    text += 'def f():\n    """Whether."""\n    # What\n'
    found = sorted(opening for _, opening in python_openings(text) if QUESTION.match(opening))
    assert found == ["What", "What a module.", "Where", "Whether.", "Which one"]


def test_openings_are_found_in_native_code() -> None:
    text = "// What it is\n// Who is inside the block\nint x;  // Whether\n/* Which */\n"
    text += 'auto url = "http://Where";\n'
    found = [opening for _, opening in native_openings(text) if QUESTION.match(opening)]
    assert found == ["What it is", "Whether", "Which */"]
