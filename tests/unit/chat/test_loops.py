"""Loops of templates that look for messages: what they find is Jinja's, and they do not grow as squares."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest

from edgellm.chat.budget import budget_for
from edgellm.chat.sandbox import sandbox

# Each loop runs over the same list in every round of an outer one.
LOOPS = {
    "a field": "{% if m.calls %}{{ m.role }}{% endif %}",
    "two fields": "{% if m['role'] == 'b' and m.calls %}{{ loop.index0 }},{% endif %}",
    "no field": "{% if not m.calls %}{{ loop.index }}{{ loop.last }}{% endif %}",
    "another text": "{% if m.role != 'b' %}{{ loop.revindex }}{{ loop.first }}{% endif %}",
    "neighbours": (
        "{% if m.role == 'c' %}{{ loop.previtem.role }}<{{ loop.nextitem.role }}>{{ loop.length }}{% endif %}"
    ),
    "a number beside": "{% if m.role == 'a' and loop.index0 < n.i %}{{ loop.index }}{% endif %}",
    "a field set": "{% if m.role == 'a' %}{% set n.at = loop.index0 %}{% endif %}{{ n.at }}",
    "only set": "{% if m.role == 'a' %}{% set n.at = n.at + loop.index0 %}{% endif %}",
    "changed": "{% if m.role %}{{ loop.changed(m.role) }}{{ loop.cycle(1, 2) }}{% endif %}",
    "undefined": "{% if m.missing == 'a' %}no{% endif %}",
    "undefined, not": "{% if m.missing != 'a' %}{{ loop.index }}{% endif %}",
    "else": "{% if m.role == 'q' %}x{% endif %}{% else %}else",
    "a method": "{% if m.items %}{{ m.role }}{% endif %}",
}
MESSAGES: list[Any] = [
    {"role": "a"},
    {"role": "b", "calls": [1]},
    {"role": "a", "calls": []},
    {"role": "b", "calls": None},
    {"role": "c", "calls": [{"id": 3}]},
    "text",
    {"role": "ä"},
    {"role": None},
]


def _loop(name: str) -> str:
    return "{% for m in all %}" + LOOPS[name] + "{% endfor %}"


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_that_looks_for_items_does_as_in_jinja(name: str) -> None:
    source = (
        "{% set n = namespace(i=0, at=0) %}{% for m in all %}["
        + _loop(name)
        + "]{{ n.at }}{% set n.i = n.i + 1 %}{% endfor %}"
    )
    expected = jinja2.Environment().from_string(source).render(all=MESSAGES)
    assert sandbox().render(sandbox().load(source), {"all": MESSAGES}, budget_for(0, 0)) == expected


def test_fields_of_a_namespace_are_read_and_set_as_in_jinja() -> None:
    source = (
        "{% set n = namespace(a=1, b='x') %}{% set n.a = n.a + 1 %}"
        "{{ n.a }}{{ n['a'] }}{{ n.b }}{{ n.c is defined }}"
        "{% for i in [1, 2] %}{% set n.a = n.a + i %}{% endfor %}{{ n.a }}{% set n = {'a': 7} %}{{ n.a }}"
    )
    expected = jinja2.Environment().from_string(source).render()
    assert sandbox().render(sandbox().load(source), {}, budget_for(0, 0)) == expected


@pytest.mark.parametrize("name", ["a field", "two fields"])
def test_looking_for_few_of_many_takes_no_square_of_steps(name: str) -> None:
    source = "{% for m in all %}{% if m.calls %}[" + _loop(name) + "]{% endif %}{% endfor %}"
    spent = []
    for n in (1000, 2000):
        messages = [{"role": "a", "calls": None} for _ in range(n)]
        for i in range(10):
            messages[100 * i] = {"role": "b", "calls": "x"}
        budget = budget_for(3 * n, 0)
        before = budget.steps
        sandbox().render(sandbox().load(source), {"all": messages}, budget)
        spent.append(before - budget.steps)
    assert spent[1] < 2.2 * spent[0] < 40_000
