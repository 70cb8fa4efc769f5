"""Thoughts in `run` and `chat`, on a model of random weights and on a scripted server."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from edgellm.chat.thinking import LEVELS
from edgellm.cli import main
from edgellm.commands.chat_commands import obey
from edgellm.commands.conversation import Conversation, LocalConversation
from edgellm.commands.remote import RemoteModel
from edgellm.commands.thoughts import OpenThoughts, shown_thoughts
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from edgellm.engine.options import GenerateOptions
from edgellm.errors import ServerError, UsageError
from tests.support.tiny_model import TEMPLATE, write_tiny_model

OPEN = TEMPLATE.replace(
    "assistant: ", "assistant: {{ '</think>' if enable_thinking is false else '<think>' }}"
)
FIXED = ("--temp", "1", "--seed", "3", "-n", "40", "-l", "257=-inf")
DIM = "\x1b[2m"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("open") / "tiny.gguf", template=OPEN))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("plain") / "tiny.gguf"))


class Line(io.StringIO):
    def isatty(self) -> bool:
        return False


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Function that runs a command: (status, standard output, standard error)."""

    def run(command: str, model: str, *options: str, terminal: bool = False) -> tuple[int, str, str]:
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setattr(sys, "stdin", Line("hi\n") if command == "chat" else None)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
        arguments = [command, model, *(["hi"] if command == "run" else []), *FIXED, *options]
        status = main(arguments)
        return status, *capsys.readouterr()

    return run


def thoughts_of(errors: str) -> str:
    """Dimmed text before the figures."""
    return "".join(part.partition("\x1b[0m")[0] for part in errors.split(DIM)[1:])


@pytest.mark.parametrize("command", ["run", "chat"])
def test_thoughts_are_never_in_the_answer(ask: Any, model: str, command: str) -> None:
    status, words, errors = ask(command, model, "--think-budget", "9")
    assert status == 0
    assert words.strip()
    assert "think" not in words + errors
    shown = ask(command, model, "--think-budget", "9", terminal=True)
    assert shown[1] == words
    assert DIM in shown[2]
    hidden = ask(command, model, "--think-budget", "9", "--hide-thinking", terminal=True)
    assert hidden[1] == words
    assert len(thoughts_of(hidden[2])) < len(thoughts_of(shown[2]))


def test_an_answer_that_is_all_thought_says_nothing(ask: Any, model: str) -> None:
    assert ask("run", model) == (0, "\n", "")
    status, words, errors = ask("run", model, terminal=True)
    assert (status, words) == (0, "\n")
    assert errors.startswith(DIM)


@pytest.mark.parametrize("more", [("--think-budget", "5"), ("--think", "off")])
def test_a_schema_holds_for_the_words(ask: Any, model: str, more: tuple[str, ...]) -> None:
    status, words, _ = ask("run", model, "--schema", '{"enum": ["yes"]}', *more)
    assert (status, words) == (0, '"yes"\n')


def test_thinking_is_switched_off(ask: Any, model: str) -> None:
    status, words, errors = ask("run", model, "--think", "off", terminal=True)
    assert status == 0
    assert words.strip()
    assert errors == ""
    assert ask("run", model, "--think", "high")[1] == "\n"


@pytest.mark.parametrize("command", ["run", "chat"])
def test_levels_that_the_template_cannot_honour_are_refused(ask: Any, plain: str, command: str) -> None:
    status, words, errors = ask(command, plain, "--think", "on")
    assert (status, words) == (2, "")
    assert "'on'" in errors
    assert "takes off" in errors
    assert ask(command, plain, "--think", "off")[1] == ask(command, plain)[1]


@pytest.mark.parametrize("command", ["run", "chat"])
def test_a_budget_without_thoughts_is_said(ask: Any, plain: str, command: str) -> None:
    status, words, errors = ask(command, plain, "--think-budget", "3")
    assert status == 0
    assert words == ask(command, plain)[1]
    assert "--think-budget has no effect" in errors


def test_raw_takes_no_level(ask: Any, model: str) -> None:
    status, _, errors = ask("run", model, "--raw", "--think", "off")
    assert status == 2
    assert "--think" in errors


def test_unknown_levels_are_refused(ask: Any, model: str) -> None:
    status, _, errors = ask("run", model, "--think", "loud")
    assert status == 2
    assert "loud" in errors


@pytest.mark.parametrize(("think", "effort"), [("off", "none"), ("on", "medium"), ("high", "high")])
def test_levels_and_budgets_go_to_a_server(think: str, effort: str) -> None:
    remote = RemoteModel(object(), "any", think=think)  # type: ignore[arg-type]
    body = remote.chat([], GenerateOptions(think_budget=5))._body
    assert (body["reasoning_effort"], body["thinking_budget_tokens"]) == (effort, 5)


def _unseen(text: str) -> None:
    """Writes nothing."""


class Away:
    """A model of a server that is away; `bodies` are the requests."""

    name, n_ctx = "any", None

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    def chat(self, *args: Any, **kwargs: Any) -> NoReturn:
        remote = RemoteModel(object(), "any", think="low")  # type: ignore[arg-type]
        self.bodies.append(dict(remote.chat(*args, **kwargs)._body))
        raise ServerError("away")


def test_set_think_goes_to_a_server() -> None:
    away = Away()
    conversation = Conversation(away, GenerateOptions(), None, _unseen)
    for _ in range(2):
        with pytest.raises(ServerError):
            conversation.ask("hi")
        conversation.set_option("think", "off")
    assert [body["reasoning_effort"] for body in away.bodies] == ["low", "none"]
    assert conversation.known_options()["think"] == "off"
    with pytest.raises(UsageError, match="loud"):
        conversation.set_option("think", "loud")


def test_set_think_is_a_level_of_the_model(model: str) -> None:
    with Model.load(Path(model), LoadOptions(threads=1)) as loaded:
        conversation = LocalConversation(loaded, GenerateOptions(), None, _unseen)
        levels = list(loaded.template.thinking())
        for level in LEVELS:
            if level in levels:
                conversation.set_option("think", level)
                assert conversation.think == level
            else:
                with pytest.raises(UsageError, match="takes"):
                    conversation.set_option("think", level)


class Stderr(io.StringIO):
    def isatty(self) -> bool:
        return True


def narrow(monkeypatch: pytest.MonkeyPatch) -> Stderr:
    """Make standard error a terminal of 30 columns without colours."""
    stream = Stderr()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("LINES", "20")
    return stream


def test_a_blank_line_ends_a_thought(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = narrow(monkeypatch)
    thoughts = OpenThoughts()
    for text in ("\n\n", "a", "\nb"):
        thoughts.think(text)
    thoughts.end()
    thoughts.end()
    thoughts.think("c\n")
    thoughts.end()
    assert errors.getvalue() == "a\nb\n\nc\n\n"
    assert thoughts.last == "a\nb\n\nc\n"
    thoughts.begin()
    assert thoughts.last == ""


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_thoughts_are_wrapped_at_words(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    errors = narrow(monkeypatch)
    text = "Okay, the user asks why the sky is blue.\n  - scattering   matters\n" + "天" * 40
    thoughts = OpenThoughts()
    for start in range(0, len(text), size):
        thoughts.think(text[start : start + size])
    thoughts.end()
    assert errors.getvalue().splitlines() == [
        "Okay, the user asks why the",
        "sky is blue.",
        "  - scattering   matters",
        "天" * 14,
        "天" * 14,
        "天" * 12,
        "",
    ]


def test_a_thought_is_folded_and_shown_again(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = narrow(monkeypatch)
    monkeypatch.setattr(sys, "stdout", Stderr())
    monkeypatch.setattr("edgellm.commands.thoughts._REDRAW_S", -1.0)
    thoughts = shown_thoughts(hide=False, fold=True)
    for number in range(20):
        thoughts.think(f"thought {number}\n")
    drawn = errors.getvalue()
    assert "thought 14" in drawn.rpartition("thought 13")[2]
    thoughts.end()
    assert re.search(r"\(thought for \d+ s; /thoughts\nshows it\)\n\n$", errors.getvalue())
    conversation = Conversation(Away(), GenerateOptions(), None, _unseen, thoughts=thoughts)
    errors.truncate(0)
    obey(conversation, "/thoughts")
    assert errors.getvalue().strip("\0").splitlines() == [f"thought {number}" for number in range(20)]


def test_thoughts_that_are_hidden_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = narrow(monkeypatch)
    thoughts = shown_thoughts(hide=True, fold=True)
    conversation = Conversation(Away(), GenerateOptions(), None, _unseen, thoughts=thoughts)
    with pytest.raises(UsageError, match="thought nothing"):
        obey(conversation, "/thoughts")
    thoughts.think("secret")
    thoughts.end()
    assert errors.getvalue() == ""
    obey(conversation, "/thoughts")
    assert errors.getvalue() == "secret\n"
