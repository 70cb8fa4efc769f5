"""The Python API as its documents and examples use it, on tiny models."""

from __future__ import annotations

import os
import random
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgellm.engine.load_options import LoadOptions
from edgellm.server.settings import ServerSettings
from tests.support.checkpoints import write_checkpoint
from tests.support.http_server import running
from tests.support.paths import ROOT
from tests.support.tiny_model import write_tiny_model
from tests.unit.engine.test_adapters import write_adapter

pytest.importorskip("edgellm._native", reason="needs the built extension module")

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(encoding="utf-8"), re.DOTALL)
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
# Words that the output of an example must hold, on any model.
SAYS = {
    "stream": "cancelled: ",
    "tools": "temperature(",
    "search": "ferry",
    "lora": "0.5: ",
    "async_chat": "Name a river. ",
    "threads": "Once upon a time",
    "convert": "model-q4.gguf",
}


@pytest.fixture(autouse=True)
def same_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the same tokens in every run: some answers of a random model would end at once, or never."""
    monkeypatch.setattr(os, "urandom", random.Random(1).randbytes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("python")
    write_tiny_model(made / "model.gguf", **{"llama.context_length": 16384})
    write_adapter(made / "adapter.gguf")
    write_checkpoint(made / "checkpoint")
    return made


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with running([("tiny", folder / "model.gguf")], LoadOptions(), ServerSettings(port=0)) as server:
        yield server.url


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_document_runs(
    number: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    exec(compile(BLOCKS[number], f"docs/python.md, block {number}", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(
    name: str,
    folder: Path,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = str(folder / "model.gguf")
    arguments = {"lora": [model, str(folder / "adapter.gguf")], "convert": [str(folder / "checkpoint"), "."]}
    given = [request.getfixturevalue("url")] if name == "client" else arguments.get(name, [model])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *given])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert said.strip()
    assert SAYS.get(name, "") in said


def test_each_part_of_the_document_has_a_program() -> None:
    assert len(BLOCKS) >= 9
    assert {"chat", "stream", "tools", "schema", "search", "lora", "async_chat", "threads"} <= set(EXAMPLES)
