"""Thoughts in `run` and `chat`, on a model of random weights and on a scripted server."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from edgellm.chat.thinking import LEVELS
from edgellm.cli import main
from edgellm.commands.conversation import Conversation, LocalConversation
from edgellm.commands.remote import RemoteModel
from edgellm.commands.thoughts import Apart
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


def test_set_think_goes_to_a_server() -> None:
    bodies: list[dict[str, Any]] = []

    class Refusing:
        """A model of a server that is away."""

        name, n_ctx = "any", None

        def chat(self, *args: Any, **kwargs: Any) -> NoReturn:
            remote = RemoteModel(object(), "any", think="low")  # type: ignore[arg-type]
            bodies.append(dict(remote.chat(*args, **kwargs)._body))
            raise ServerError("away")

    conversation = Conversation(Refusing(), GenerateOptions(), None, _unseen)
    for _ in range(2):
        with pytest.raises(ServerError):
            conversation.ask("hi")
        conversation.set_option("think", "off")
    assert [body["reasoning_effort"] for body in bodies] == ["low", "none"]
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


def test_a_blank_line_ends_a_thought() -> None:
    shown: list[str] = []
    apart = Apart(shown.append)
    for text in ("\n\n", "a", "\nb"):
        apart.think(text)
    apart.end()
    apart.end()
    apart.think("c\n")
    apart.end()
    assert "".join(shown) == "a\nb\n\nc\n\n"
