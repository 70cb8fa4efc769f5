"""Generated documents are up to date, and links between documents have a target."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgellm.cli import ALIASES, COMMANDS, load_command, make_parser
from tests.support.paths import ROOT, load_script

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def test_the_command_line_reference_is_up_to_date() -> None:
    made = load_script(ROOT / "docs/make_cli.py")
    assert made.TARGET.read_text(encoding="utf-8") == made.reference(), "run python docs/make_cli.py"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("name", ["README.md", "docs/architecture.md"])
def test_lines_are_at_most_120_wide(name: str) -> None:
    lines = enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1)
    assert [number for number, line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_each_recipe_of_contributing_names_a_commit_of_this_history() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    recipes = re.findall(r"^## (Add .*?)\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    assert len(recipes) >= 4
    shallow = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if shallow.stdout.strip() != "false":
        pytest.skip("needs a git checkout with its history")
    for title, body in recipes:
        commits = re.findall(r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,40}\b", body)
        assert commits, f"{title}: names no commit"
        for commit in commits:
            found = ["git", "cat-file", "-e", f"{commit}^{{commit}}"]
            assert subprocess.run(found, cwd=ROOT, capture_output=True, check=False).returncode == 0, commit


def written_commands() -> Iterator[str]:
    """Each command line with edgellm that the documents, the overview and the help texts show."""
    for document in DOCUMENTS:
        if document.name in ("cli.md", "CHANGELOG.md"):
            continue  # cli.md is made of the help texts
        text = document.read_text(encoding="utf-8").replace("\\\n", " ")
        lines = re.findall(r"^ {4}(.*)$", text, re.MULTILINE)
        for block in re.findall(r"```(?:sh|console|bash)?\n(.*?)```", text, re.DOTALL):
            lines += block.splitlines()
        yield from (line for line in lines if re.search(r"(^|[ /])edgellm \w", line))
    for name in COMMANDS:
        yield from (line for line, _ in load_command(name).examples)


@pytest.mark.parametrize("line", sorted(set(written_commands())))
def test_each_command_of_the_documents_is_understood(line: str) -> None:
    found = 0
    for part in re.split(r"[|&;]+", line):
        words = shlex.split(part.partition(" <")[0].partition(" >")[0], comments=True)
        start = next((n for n, word in enumerate(words) if word.rpartition("/")[2] == "edgellm"), None)
        name = words[start + 1] if start is not None and start + 1 < len(words) else ""
        if start is None or ALIASES.get(name, name) not in COMMANDS:
            continue
        command = load_command(ALIASES.get(name, name))
        make_parser(name, command).parse_intermixed_args(words[start + 2 :])
        found += 1
    assert found or "docker" in line or "pip install" in line, line
