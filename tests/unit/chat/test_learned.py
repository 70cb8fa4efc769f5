"""Syntaxes of templates are found on disk again, and files that are not right are not believed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgellm.chat import learned, learning, probing, thinking
from edgellm.chat.sandbox import TemplateSandbox
from edgellm.chat.syntax import Syntax
from tests.support.paths import TEMPLATES

NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
BOTH = ("<s>", "</s>")


def forget() -> None:
    """Empty what the process keeps in memory."""
    kept: Any
    for kept in (
        learned.syntax,
        learned.thoughts,
        learned.levels,
        learning.learn,
        learning.learn_thoughts,
        probing.prober,
        thinking.levels,
    ):
        kept.cache_clear()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path))
    forget()
    yield tmp_path / "templates"
    forget()


@pytest.fixture
def n_rendered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    usual = TemplateSandbox.render

    def render(self: TemplateSandbox, *args: Any) -> str:
        counted.append(1)
        return usual(self, *args)

    monkeypatch.setattr(TemplateSandbox, "render", render)
    return counted


@pytest.mark.parametrize("name", NAMES)
def test_a_second_load_finds_what_the_first_has_learned(name: str, n_rendered: list[int]) -> None:
    source = (TEMPLATES / f"{name}.jinja").read_text()
    first = (learned.syntax(source, *BOTH), learned.levels(source, *BOTH), learned.thoughts(source, *BOTH))
    assert first[0] == learning.learn(source, *BOTH)
    n = len(n_rendered)
    assert n < 80
    forget()
    again = (learned.syntax(source, *BOTH), learned.levels(source, *BOTH), learned.thoughts(source, *BOTH))
    assert again == first
    assert len(n_rendered) == n


def test_other_tokens_are_learned_apart(folder: Path) -> None:
    source = (TEMPLATES / f"{NAMES[0]}.jinja").read_text()
    learned.syntax(source, *BOTH)
    learned.syntax(source, "<bos>", "</s>")
    assert len(list(folder.iterdir())) == 2


DAMAGES: dict[str, Any] = {
    "empty": "",
    "no JSON": "{",
    "not UTF-8": b"\xff",
    "a list": "[]",
    "no fields": "{}",
    "deep": "[" * 100_000,
    "large": " " * (learned.MAX_BYTES + 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_learned_again(damage: str, folder: Path) -> None:
    source = (TEMPLATES / "json-in-tags.jinja").read_text()
    found = learned.syntax(source, *BOTH)
    (path,) = folder.iterdir()
    given = DAMAGES[damage]
    path.write_bytes(given if isinstance(given, bytes) else given.encode())
    forget()
    assert learned.syntax(source, *BOTH) == found
    assert json.loads(path.read_bytes())["found"]["kind"] == "learned"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("separator", 7),
        ("several", "yes"),
        ("first", "text"),
        ("first", [["no slot"]]),
        ("first", [7]),
        ("arguments", None),
        ("more", 1),
    ],
)
def test_a_file_with_a_field_of_another_type_is_learned_again(
    field: str, value: object, folder: Path
) -> None:
    source = (TEMPLATES / "json-in-tags.jinja").read_text()
    found = learned.syntax(source, *BOTH)
    (path,) = folder.iterdir()
    kept = json.loads(path.read_bytes())
    kept["found"][field] = value
    path.write_text(json.dumps(kept))
    forget()
    assert learned.syntax(source, *BOTH) == found


def test_a_file_of_another_template_is_not_believed(folder: Path) -> None:
    first, second = ((TEMPLATES / f"{name}.jinja").read_text() for name in ("json-in-tags", "json-list"))
    found = learned.syntax(first, *BOTH)
    (path,) = folder.iterdir()
    learned.syntax(second, *BOTH)
    (other,) = set(folder.iterdir()) - {path}
    path.write_bytes(other.read_bytes())
    forget()
    assert learned.syntax(first, *BOTH) == found


def test_what_a_load_needs_of_a_known_template_is_little(folder: Path) -> None:
    code = (
        "import sys; from edgellm.chat import learned; source = open(sys.argv[1]).read()\n"
        "for learn in (learned.syntax, learned.thoughts, learned.levels): learn(source, '<s>', '</s>')\n"
        "print(*sorted(sys.modules))"
    )
    command = [sys.executable, "-c", code, str(TEMPLATES / "json-in-tags.jinja")]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert "edgellm.chat.learning" in runs[0].split()
    kept = set(runs[1].split())
    assert not kept & {"edgellm.chat.learning", "edgellm.chat.thinking", "jinja2", "hashlib", "tempfile"}


def test_a_folder_that_cannot_be_written_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGELLM_HOME", str(tmp_path / "file"))
    assert isinstance(learned.syntax((TEMPLATES / "json-in-tags.jinja").read_text(), *BOTH), Syntax)


def test_the_oldest_files_give_way(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "MAX_FILES", 3)
    for number in range(5):
        learned.thoughts("{{ messages }}" + str(number), *BOTH)
    assert len(list(folder.iterdir())) == 3


def test_thoughts_alone_take_few_renderings(n_rendered: list[int]) -> None:
    source = (TEMPLATES / "invoke-parameters.jinja").read_text()
    found = learned.thoughts(source, *BOTH)
    assert (found.think_begin, found.think_end, found.think_open) == ("<think>", "</think>", True)
    assert len(n_rendered) < 10
