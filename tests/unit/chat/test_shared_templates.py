"""Real chat templates of a folder beside the checkout: rendered as transformers renders them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import edgellm.chat
from edgellm.chat.learning import learn

FOLDER = Path(__file__).parents[4] / "shared" / "templates"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja"))
pytestmark = pytest.mark.skipif(not NAMES, reason="needs the folder shared/templates beside the checkout")


def conversations() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((FOLDER / "messages.json").read_text())
    return read


@pytest.mark.parametrize("name", NAMES)
def test_a_real_template_renders_as_in_transformers(name: str) -> None:
    source = (FOLDER / f"{name}.jinja").read_bytes().decode()
    expected = json.loads((FOLDER / f"{name}.json").read_text())["renders"]
    for key, given in conversations().items():
        if expected[key] is None:
            continue
        text = edgellm.chat.render(source, given["messages"], tools=given["tools"], **given["options"])
        assert _undated(text) == _undated(expected[key]), key


def _undated(text: str) -> str:
    """The text without the day of the rendering."""
    return re.sub(r"\d\d [A-Z][a-z]{2} 20\d\d|20\d\d-\d\d-\d\d", "DATE", text)


@pytest.mark.parametrize("name", NAMES)
def test_calls_and_thoughts_of_a_real_template_are_read(name: str) -> None:
    source = (FOLDER / f"{name}.jinja").read_bytes().decode()
    given = json.loads((FOLDER / f"{name}.json").read_text())
    tools = conversations()["call"]["tools"]
    one = ("get_weather", {"city": "Zürich", "unit": "celsius"})
    two = ("add", {"a": 1, "b": 2})
    end = given["prompt_end"] or ""
    if given["one_call"] is not None:
        assert edgellm.chat.parse(source, given["one_call"], tools, end).tool_calls == [one]
    if given["two_calls"] not in (None, given["one_call"]):
        assert edgellm.chat.parse(source, given["two_calls"], tools, end).tool_calls == [one, two]
    if given["thought"] is not None:
        message = edgellm.chat.parse(source, given["thought"], prompt_end=end)
        assert (message.thoughts, message.content) == ("ZZTHOUGHT", "Four.")


def test_the_end_of_a_spent_budget_is_the_end_of_the_thought() -> None:
    n_thinking = 0
    for name in NAMES:
        source = (FOLDER / f"{name}.jinja").read_bytes().decode()
        syntax = learn(source)
        if not syntax.limits_thoughts:
            continue
        n_thinking += 1
        begun = syntax.header + syntax.think_begin
        forced = "hm" + syntax.think_close + syntax.words_begin + "words"
        for text, end in ((forced, begun), (syntax.think_begin + forced, syntax.header)):
            message = edgellm.chat.parse(source, text, prompt_end=end)
            assert (message.thoughts, message.content) == ("hm", "words"), name
    assert n_thinking >= 39
