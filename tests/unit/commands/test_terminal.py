"""Answers drawn on a terminal, and what is typed meanwhile."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from rich.console import Console

from edgellm.cli import main
from edgellm.commands.markdown import MarkdownWriter
from tests.support.paths import ROOT
from tests.support.tiny_model import write_tiny_model
from tests.unit.benchmark.test_prediction import quick

__all__ = ["quick"]

TEXT = """# Title
Some *words* that are longer than a line, <b>tags</b> and \\(x^2\\).
A second line.

1. one

2. two

```python
def f():

    return 1
```
| a | b |
|---|---|
| 1 | 2 |
"""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def drawn(text: str, width: int, step: int, *, terminal: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, height=20, force_terminal=terminal, color_system=None)
    writer = MarkdownWriter(console)
    for start in range(0, len(text), step):
        writer.write(text[start : start + step])
    writer.end()
    return out.getvalue()


@pytest.mark.parametrize("width", [100, 40, 30])
def test_blocks_are_drawn_whole_and_wrapped_at_words(width: int) -> None:
    lines = drawn(TEXT, width, len(TEXT)).splitlines()
    assert max(map(len, lines)) <= width
    words = " ".join(" ".join(lines).split())
    for kept in ("longer than a line,", "<b>tags</b>", r"\(x^2\)", "1 one", "2 two", "def f():", "return 1"):
        assert kept in words
    assert any(line.strip() == "A second line." for line in lines)


@pytest.mark.parametrize("step", [1, 7])
def test_pieces_give_the_same_as_the_whole(step: int) -> None:
    assert drawn(TEXT, 60, step) == drawn(TEXT, 60, len(TEXT))


def test_text_of_the_model_moves_no_cursor() -> None:
    assert "\x1b" not in drawn("a\x1b[2Jb\x1b]0;title\x07", 40, 3)


def test_a_terminal_shows_each_word_once_in_the_end() -> None:
    screen = _ESCAPES.sub("", drawn("one two three\n\nfour", 40, 5, terminal=True)).split()
    assert screen[-4:] == ["one", "two", "three", "four"] or screen[-1] == "four"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["chat", "--tmp", "0"], "chat: there is no option --tmp: did you mean --temp?"),
        (["run", "-ngl", "99", "hi"], "there is no option -ngl: edgellm runs on the CPU"),
        (["chat", "--cache-type-k", "q8_0"], "the type of the cache is --kv-type"),
        (["ps"], "there is no command 'ps': a server lists its models at /api/ps"),
        (["stop", "llama"], "there is no command 'stop': edgellm runs no server in the background"),
        (["signin"], "no account is needed"),
        (["recommend"], "edgellm fit shows which models suit this machine"),
        (["sevre"], "did you mean `edgellm serve`?"),
    ],
)
def test_habits_get_a_sentence(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_run_without_a_prompt_is_a_chat_on_a_terminal(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "tiny.gguf")
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "edgellm", "run", str(model), "-n", "3", "--backend", "interpreter"]
    environment = {**os.environ, "EDGELLM_HOME": str(tmp_path), "TERM": "dumb", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment) as process:
        os.close(child)
        seen, begin = b"", time.monotonic()
        while b">>>" not in seen and time.monotonic() - begin < 120:
            seen += os.read(parent, 4096)
        os.write(parent, b"/bye\r")
        try:
            while chunk := os.read(parent, 4096):
                seen += chunk
        except OSError:
            pass  # the other side is closed
        assert process.wait() == 0
    os.close(parent)
    assert b"/help says what you can do" in seen


def test_keys_are_held_back_only_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgellm.commands.terminal import keys_held_back

    parent, child = pty.openpty()
    with os.fdopen(child) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        before = termios.tcgetattr(child)
        with keys_held_back():
            assert not termios.tcgetattr(child)[3] & termios.ECHO
        assert termios.tcgetattr(child) == before
    os.close(parent)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--max-memory", "1.5", "x"], "'1.5' has no unit, and so few bytes hold nothing; 1.5G"),
        (["chat", "{checkpoint}"], "it holds a checkpoint, of which `edgellm convert"),
        (["convert", "{file}", "out.gguf"], "`edgellm quantize` writes a GGUF file in other formats"),
    ],
)
def test_what_is_of_another_kind_names_the_right_command(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    places = {"{checkpoint}": str(tmp_path), "{file}": str(tmp_path / "model.gguf")}
    assert main([places.get(argument, argument) for argument in arguments]) in (1, 2)
    assert says in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_help_and_doctor_print_no_python(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    assert "(default 512)" in capsys.readouterr().out
    assert main(["doctor", "--offline"]) == 0
    out = capsys.readouterr().out
    assert "('" not in out
    assert "built scalar" in out
    assert re.search(r"^suits +(smollm2|qwen)", out, re.MULTILINE)
    assert re.search(r"^network +off", out, re.MULTILINE)


def test_the_network_is_on_only_if_the_hub_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgellm.commands.doctor import describe_machine

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("EDGELLM_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert describe_machine(offline=False)["network"] == "no answer from http://127.0.0.1:9"
