"""Levels of thinking that templates honour, learned by rendering them."""

from __future__ import annotations

from typing import Any

import pytest

from edgellm.chat.messages import SYSTEM_WORDS
from edgellm.chat.template import ChatTemplate
from edgellm.chat.thinking import levels
from tests.support.vocabularies import tokenizer

_TURNS = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
_SHUT = "<think>\n\n</think>\n\n"
_OPENS = "{% if add_generation_prompt %}[assistant]{{ OPENING }}{% endif %}"


def template(opening: str, before: str = "") -> str:
    """A template whose prompt ends with an expression."""
    return before + _TURNS + _OPENS.replace("OPENING", opening)


_SHUT_IF = "'" + _SHUT.replace("\n", "\\n") + "' if {} else '<think>'"
ALL = ("low", "medium", "high")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (template("''"), {"off": {}}),
        (template("'<think>'"), {"on": {}}),
        (
            template(_SHUT_IF.format("enable_thinking is false")),
            {"off": {"enable_thinking": False}, **{k: {"enable_thinking": True} for k in ("on", *ALL)}},
        ),
        (
            template("'<think>' if thinking else '</think>'"),
            {"off": {"thinking": False}, **{k: {"thinking": True} for k in ("on", *ALL)}},
        ),
        (
            template("'<think>'", "Reasoning: {{ reasoning_effort | default('medium') }}"),
            {"on": {}, **{k: {"reasoning_effort": k} for k in ALL}},
        ),
        (
            template(
                "'<think>' if reasoning_effort == 'high' else ''",
                "{% if reasoning_effort is defined and reasoning_effort not in ['none', 'high'] %}"
                "{{ raise_exception('no') }}{% endif %}{# </think> #}",
            ),
            {
                "off": {"reasoning_effort": "none"},
                "on": {"reasoning_effort": "high"},
                "high": {"reasoning_effort": "high"},
            },
        ),
        (
            template(_SHUT_IF.format("enable_thinking is false"), "{{ 'brief' if low_effort }}"),
            {
                "on": {"enable_thinking": True},
                "off": {"enable_thinking": False},
                "low": {"enable_thinking": True, "low_effort": True},
                "high": {"enable_thinking": True},
            },
        ),
        # Words of a system message.
        (
            template(_SHUT_IF.format("'/no_think' in messages[0].content")),
            {
                "off": {SYSTEM_WORDS: "/no_think"},
                **{k: {SYSTEM_WORDS: "/think"} for k in ("on", *ALL)},
            },
        ),
        (
            template("'<think>' if 'detailed thinking off' not in messages[0].content"),
            {
                "off": {SYSTEM_WORDS: "detailed thinking off"},
                **{k: {SYSTEM_WORDS: "detailed thinking on"} for k in ("on", *ALL)},
            },
        ),
        # Words that a template only mentions are no switch.
        (template("'<think>'", "{# /no_think #}"), {"on": {}}),
        # A variable that is named and changes nothing is no switch.
        (template("'<think>'", "{% if enable_thinking %}{% endif %}{{ messages[0].thinking }}"), {"on": {}}),
        # A mark that ends every turn is no thought's.
        (_TURNS.replace("{% endfor", "<|end|>{% endfor"), {"off": {}}),
        ("{{ malformed", {"off": {}}),
    ],
)
def test_levels_are_learned(source: str, expected: dict[str, Any]) -> None:
    assert {level: dict(given) for level, given in levels(source).items()} == expected


@pytest.mark.parametrize("system", [None, "Be brief.", [{"type": "text", "text": "Be brief."}]])
def test_words_that_switch_thoughts_come_into_the_system_message(system: object) -> None:
    made = ChatTemplate(template(_SHUT_IF.format("'/no_think' in messages[0].content")), tokenizer("gpt-2"))
    messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    messages.append({"role": "user", "content": "hi"})
    off, on = (made.render(messages, **made.thinking()[level]) for level in ("off", "on"))
    assert off.endswith(_SHUT)
    assert on.endswith("<think>")
    assert off.startswith("[system]/no_think" if system is None else "[system]Be brief.\n/no_think")
    assert made.render(messages).endswith("<think>")
