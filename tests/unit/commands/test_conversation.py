"""Chat commands over a model that answers what it is told to."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edgellm.chat.truncation import largest_prompt, without_oldest
from edgellm.commands.chat import read_message, talk
from edgellm.commands.chat_commands import obey
from edgellm.commands.conversation import LocalConversation
from edgellm.commands.loading import Repetition, note_of_end, statistics, with_temperature
from edgellm.engine.options import GenerateOptions
from edgellm.engine.request import Stats
from edgellm.errors import ContextOverflowError, EdgeLLMError, FileError, FormatError, UsageError


class FakeGeneration(Iterator[str]):
    def __init__(self, pieces: Sequence[str], n_prompt: int, interrupt: bool = False) -> None:
        self._pieces = list(pieces)
        self._interrupt = interrupt
        self.text = ""
        self.ids: list[int] = []
        self.prompt_ids = list(range(n_prompt))
        self.finish_reason: str | None = None
        self.stats: Stats | None = None

    def __next__(self) -> str:
        if not self._pieces:
            self.finish_reason = self.finish_reason or "stop"
            self.stats = Stats(len(self.prompt_ids), 2, len(self.ids), 0.0, 0.5, 2.0)
            raise StopIteration
        if self._interrupt and self.ids:
            os.kill(os.getpid(), signal.SIGINT)
        piece = self._pieces.pop(0) if self.finish_reason is None else None
        if piece is None:
            self._pieces = []
            return next(self)
        self.text += piece
        self.ids.append(1)
        return piece

    def cancel(self) -> None:
        self.finish_reason = "cancelled"
        self._pieces = []


class FakeModel:
    """Answers with the words it is told to; a token is a character."""

    name = "Fake"
    n_ctx = 100
    sampling_defaults: Mapping[str, Any] = {"top_k": 7}

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.prompts: list[list[dict[str, str]]] = []
        self.options: list[GenerateOptions] = []
        self.interrupt = False
        self.template = SimpleNamespace(encode=self._encode, may_think=False, thinking=lambda: {"off": {}})
        self.path, self.threads, self.memory = Path("fake.gguf"), 1, {"weights": 1_000_000}
        self.program = SimpleNamespace(family="fake")
        self.closed = False

    def tokenize(self, text: str) -> list[int]:
        return [0] * len(text)

    def close(self) -> None:
        self.closed = True

    def _encode(self, messages: Sequence[Mapping[str, str]], **options: Any) -> list[int]:
        return [0] * sum(len(m["content"]) for m in messages)

    def chat(
        self, messages: Sequence[dict[str, str]], options: GenerateOptions, think: str | None = None
    ) -> FakeGeneration:
        n_prompt = len(self._encode(messages))
        if n_prompt > self.n_ctx:
            raise ContextOverflowError("The prompt has too many tokens.")
        self.prompts.append(list(messages))
        self.options.append(options)
        answer = self.answers.pop(0) if self.answers else "ok then"
        return FakeGeneration(answer.split(" "), n_prompt, self.interrupt)


class Chat:
    """A conversation with a fake model, and what was written."""

    def __init__(self) -> None:
        self.model = FakeModel()
        self.written: list[str] = []
        model = cast(Any, self.model)
        self.conversation = LocalConversation(model, GenerateOptions(), None, self.written.append)

    def says(self, *lines: str) -> None:
        remaining = list(lines)

        def read(prompt: str) -> str:
            if not remaining:
                raise EOFError
            line = remaining.pop(0)
            if line == "^C":
                raise KeyboardInterrupt
            return line

        talk(self.conversation, read)

    @property
    def contents(self) -> list[str]:
        return [m["content"] for m in self.conversation.messages]


@pytest.fixture
def chat() -> Chat:
    return Chat()


def test_messages_and_answers_alternate(chat: Chat) -> None:
    chat.model.answers = ["one", "two"]
    chat.says("a", "", "  ", "b")
    assert chat.contents == ["a", "one", "b", "two"]
    assert [len(prompt) for prompt in chat.model.prompts] == [1, 3]
    assert chat.written == ["one", "\n", "two", "\n"]


def test_several_lines_are_one_message(chat: Chat) -> None:
    chat.says('"""one', "two", 'three"""', '"""', "four", '"""', '"""five"""')
    assert chat.contents[::2] == ["one\ntwo\nthree", "four", "five"]


def test_the_end_within_a_message(chat: Chat) -> None:
    chat.says('"""one', "two")
    assert chat.contents == []


def test_ctrl_c_at_the_prompt_stays(chat: Chat) -> None:
    chat.says("^C", "a")
    assert chat.contents == ["a", "okthen"]


def test_ctrl_c_stops_the_answer_and_keeps_what_came(chat: Chat) -> None:
    chat.model.answers = ["one two three four", "fine"]
    chat.model.interrupt = True
    chat.says("a")
    assert chat.contents == ["a", "one"] or chat.contents == ["a", "onetwo"]
    assert chat.conversation.last is not None
    assert chat.conversation.last.finish_reason == "cancelled"
    chat.model.interrupt = False
    chat.says("b")
    assert chat.contents[-2:] == ["b", "fine"]


def test_leaving(chat: Chat) -> None:
    for word in ("/bye", "/exit", "/quit"):
        chat.says(word, "never")
    assert chat.contents == []


def test_clear_and_undo_and_regen(chat: Chat) -> None:
    chat.model.answers = ["one", "two", "three"]
    chat.says("a", "b", "/undo")
    assert chat.contents == ["a", "one"]
    chat.says("/regen")
    assert chat.contents == ["a", "three"]
    chat.says("/clear")
    assert chat.contents == []


@pytest.mark.parametrize("command", ["/undo", "/regen", "/stats"])
def test_commands_that_need_an_answer(chat: Chat, command: str) -> None:
    with pytest.raises(UsageError):
        obey(chat.conversation, command)


def test_system(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.says("/system", "/system Be brief.", "a", "/system", "b")
    assert chat.model.prompts[0][0] == {"role": "system", "content": "Be brief."}
    assert chat.model.prompts[1][0]["role"] == "user"
    assert "Removed: Be brief." in capsys.readouterr().err


def test_set(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.says("/set temp 0.5", "/set top-k 3", "/set seed 4", "/set stop X", "/set", "a", "/set seed -1", "b")
    first, second = chat.model.options
    assert (first.temperature, first.top_k, first.seed, first.stop) == (0.5, 3, 4, ("X",))
    assert second.seed is None
    assert "top_k = 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["/set colour 1", "/set temperature", "/set temperature x", "/set top_p 7", "/set l 2+1"]
)
def test_set_refuses(chat: Chat, text: str) -> None:
    with pytest.raises(UsageError):
        obey(chat.conversation, text)


def test_read_puts_a_file_before_the_next_message(chat: Chat, tmp_path: Path) -> None:
    file = tmp_path / "my notes.txt"
    file.write_text("notes")
    chat.says(f"/read {file}", "Summarize.", "more")
    assert chat.contents[0] == "notes\n\nSummarize."
    assert chat.contents[2] == "more"


def test_read_refuses(chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large").write_bytes(b"x" * 11)
    with pytest.raises(FileError, match="cannot be read"):
        obey(chat.conversation, f"/read {tmp_path / 'none'}")
    with pytest.raises(FormatError, match="UTF-8"):
        obey(chat.conversation, f"/read {tmp_path / 'binary'}")
    monkeypatch.setattr("edgellm.commands.conversation._LARGEST_FILE", 10)
    with pytest.raises(FileError, match="give a part"):
        obey(chat.conversation, f"/read {tmp_path / 'large'}")
    with pytest.raises(UsageError, match="needs a file"):
        obey(chat.conversation, "/read")


def test_save_and_load(chat: Chat, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    chat.says("/system Be brief.", "é", f"/save {file}")
    other = Chat()
    other.says(f"/load {file}")
    assert other.conversation.messages == chat.conversation.messages
    assert other.conversation.system == "Be brief."
    assert [path.name for path in tmp_path.iterdir()] == ["talk.json"]


def test_a_lone_surrogate_from_a_terminal_is_saved(chat: Chat, tmp_path: Path) -> None:
    chat.conversation.messages = [{"role": "user", "content": "a\udcffb"}]
    chat.conversation.save(tmp_path / "talk.json")
    chat.conversation.load(tmp_path / "talk.json")
    assert chat.conversation.messages == [{"role": "user", "content": "a?b"}]


def test_a_failed_save_leaves_the_old_file(
    chat: Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "talk.json"
    file.write_text("old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(FileError, match="No space left"):
        chat.conversation.save(file)
    assert [path.name for path in tmp_path.iterdir()] == ["talk.json"]
    assert file.read_text() == "old"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a conversation"),
        ('{"format": "other"}', "not a conversation"),
        (json.dumps({"format": "edgellm-chat", "version": 2}), "version 2"),
        (json.dumps({"format": "edgellm-chat", "version": 1, "messages": {}}), "wrong type"),
        (json.dumps({"format": "edgellm-chat", "version": 1, "system": 1, "messages": []}), "wrong type"),
        (json.dumps({"format": "edgellm-chat", "version": 1, "messages": [{"role": "x"}]}), "role 'x'"),
    ],
)
def test_load_refuses(chat: Chat, tmp_path: Path, content: str, says: str) -> None:
    file = tmp_path / "talk.json"
    file.write_text(content)
    chat.says("a")
    with pytest.raises(FormatError, match=says):
        obey(chat.conversation, f"/load {file}")
    assert chat.contents == ["a", "okthen"]


def test_load_of_nothing(chat: Chat, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        obey(chat.conversation, f"/load {tmp_path}")


def test_a_message_that_does_not_fit_leaves_no_trace(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.says("a", "x" * 200)
    assert chat.contents == ["a", "okthen"]
    assert "too many tokens. (/undo, /clear, or start again with a larger -c)" in capsys.readouterr().err


def test_a_full_context_leaves_out_the_oldest(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.model.answers = ["b" * 20, "d" * 20, "f" * 20, "h"]
    chat.says("a" * 20, "c" * 20, "/system S", "e" * 20)
    assert [m["content"][0] for m in chat.model.prompts[2]] == ["S", "c", "d", "e"]
    assert "no longer gets the oldest 2 messages" in capsys.readouterr().err
    assert [text[0] for text in chat.contents] == ["a", "b", "c", "d", "e", "f"]
    chat.says("/undo", "/undo", "/undo", "g")
    assert [m["content"][0] for m in chat.model.prompts[3]] == ["S", "g"]


def test_an_answer_has_room_when_messages_are_left_out() -> None:
    assert largest_prompt(100, None) == 75
    assert largest_prompt(100, 10) == 90
    assert largest_prompt(100, 0) == 99


def test_instructions_and_the_last_exchange_stay() -> None:
    talk: list[dict[str, Any]] = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a" * 50},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "r"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c" * 50},
        {"role": "user", "content": "d"},
    ]
    once = without_oldest(talk)
    assert once == [talk[0], *talk[4:]]
    assert without_oldest(once) == [talk[0], talk[6]]
    assert without_oldest([talk[0], talk[6]]) is None
    assert without_oldest(talk[1:4]) is None


def test_a_failed_regen_keeps_the_answer(chat: Chat) -> None:
    chat.says("a")
    chat.model.n_ctx = 0
    with pytest.raises(EdgeLLMError):
        obey(chat.conversation, "/regen")
    assert chat.contents == ["a", "okthen"]


def test_unknown_commands(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.says("/bogus", "/help", "/?")
    text = capsys.readouterr().err
    assert "There is no /bogus" in text
    assert text.count("/context") == 2


def test_stats_and_context(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.says("abc", "/stats", "/context")
    text = capsys.readouterr().err
    assert "2 tokens, 0.5 a second, the first after 0.50 s, context 5 % full" in text
    assert "prompt: 3 tokens, 2 of them known from before, the others at 2.0 a second" in text
    assert "9 of 100 tokens (9 %) in 2 messages" in text


def test_statistics_show_a_temperature_that_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    generation = FakeGeneration(["a", "b"], 3)
    list(generation)
    monkeypatch.setattr("edgellm.device.sensors.temperature_c", lambda: 71.2)
    assert with_temperature(statistics(cast(Any, generation), 50)).endswith("context 10 % full, 71 °C")


def test_a_full_context_is_said() -> None:
    generation = FakeGeneration([], 3)
    assert note_of_end(cast(Any, generation), 50) == ""
    generation.finish_reason = "context"
    assert "context of 50 tokens is full" in note_of_end(cast(Any, generation), 50)


def test_read_message_keeps_quotes_within_lines() -> None:
    lines = iter(['say """x"""'])
    assert read_message(lambda prompt: next(lines)) == 'say """x"""'


def test_a_message_may_begin_with_a_slash(chat: Chat) -> None:
    chat.says("//etc is a folder")
    assert chat.contents[0] == "/etc is a folder"


def test_a_command_that_is_nearly_right_names_it(chat: Chat) -> None:
    with pytest.raises(UsageError, match=r"no /sytem; did you mean /system\?"):
        obey(chat.conversation, "/sytem x")


def test_save_asks_before_it_overwrites(chat: Chat, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    file.write_text("old")
    with pytest.raises(UsageError, match="exists already; give another name"):
        obey(chat.conversation, f"/save {file}")
    asked: list[str] = []

    def answer(fact: str, question: str) -> bool:
        asked.append(question)
        return len(asked) > 1

    chat.conversation.confirm = answer
    obey(chat.conversation, f"/save {file}")
    assert file.read_text() == "old"
    obey(chat.conversation, f"/save {file}")
    assert json.loads(file.read_text())["model"] == "Fake"
    assert asked[0] == "Replace it?"


def test_an_attachment_that_is_too_long_is_refused_at_once(chat: Chat, tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("x" * 90)
    with pytest.raises(UsageError, match=r"has 90 tokens, and the context has room for 75"):
        obey(chat.conversation, f"/read {tmp_path / 'long.txt'}")
    assert chat.conversation.attached == []


def test_another_model_goes_on(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    other = FakeModel()
    other.name = "Other"
    model = cast(Any, chat.model)
    chat.conversation = LocalConversation(
        model,
        GenerateOptions(),
        None,
        chat.written.append,
        opened=lambda name: (cast(Any, other), f"of {name}"),
    )
    chat.says("a", "/model new", "/show", "b")
    assert chat.model.closed
    assert other.prompts[0] == [
        {"role": "system", "content": "of new"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "okthen"},
        {"role": "user", "content": "b"},
    ]
    text = capsys.readouterr().err
    assert "Other goes on" in text
    assert "instructions: of new" in text


def test_verbose_says_more_after_each_answer(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.says("a")
    assert "known from before" not in capsys.readouterr().err
    chat.says("/set verbose on", "b", "/set verbose off", "c")
    assert capsys.readouterr().err.count("known from before") == 1


def test_settings_of_ollamas_chat(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.says(
        *("/set parameter temperature 0.25", "/set parameter num_predict 7", "/set verbose", "/set quiet"),
        *('/set system "Be brief."', "a"),
    )
    (options,) = chat.model.options
    assert (options.temperature, options.max_tokens) == (0.25, 7)
    assert chat.model.prompts[0][0] == {"role": "system", "content": "Be brief."}
    assert "known from before" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("/set parameter num_ctx 4096", "chosen at the start: edgellm chat MODEL -c"),
        ("/set nowordwrap", "as long as the terminal"),
        ("/set format json", "--json-object"),
        ("/load smollm2", "/model smollm2 goes on"),
    ],
)
def test_what_ollamas_chat_sets_and_this_one_does_not(chat: Chat, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        obey(chat.conversation, text)


def test_a_first_question_is_answered(chat: Chat) -> None:
    talk(chat.conversation, lambda prompt: "/bye", "Why?")
    assert chat.contents == ["Why?", "okthen"]


def test_an_answer_that_repeats_itself_is_ended(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    chat.model.answers = [" ".join(["I.hope.that.helps.\n"] * 200)]
    chat.says("hi")
    assert 1200 <= len(chat.contents[1]) < 1300
    assert "The answer repeated itself" in capsys.readouterr().err


def test_what_differs_a_little_is_no_repetition() -> None:
    rows = [f"| {number} | same | same |\n" for number in range(100, 400)]
    watch = Repetition()
    assert not any(watch.push(row) for row in rows)
    assert any(watch.push("| 7 | same | same |\n") for _ in range(100))
