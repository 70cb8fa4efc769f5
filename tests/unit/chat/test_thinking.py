"""Levels of thinking that templates honour, learned by rendering them."""

from __future__ import annotations

from typing import Any

import pytest

from edgellm.chat.thinking import levels

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
        # A variable that is named and changes nothing is no switch.
        (template("'<think>'", "{% if enable_thinking %}{% endif %}{{ messages[0].thinking }}"), {"on": {}}),
        # A mark that ends every turn is no thought's.
        (_TURNS.replace("{% endfor", "<|end|>{% endfor"), {"off": {}}),
        ("{{ malformed", {"off": {}}),
    ],
)
def test_levels_are_learned(source: str, expected: dict[str, Any]) -> None:
    assert {level: dict(given) for level, given in levels(source).items()} == expected
