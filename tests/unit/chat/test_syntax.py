"""Ways of writing calls and thoughts: learned from small templates, read, and admitted by the grammar."""

from __future__ import annotations

import json
import random

import pytest

import edgellm.chat
from edgellm.chat.parts import Call, PartParser, Words, parse
from edgellm.chat.probing import Prober
from edgellm.chat.tools import syntax_of
from edgellm.chat.turns import Turns
from edgellm.engine.grammar import GrammarCompiler
from tests.support.calls import disagreement
from tests.support.vocabularies import tokenizer

_ITEMS = "{% for k, v in f.arguments.items() %}"
_RAW = "{{ v if v is string else v|tojson }}"
_JSON = "{{ f.arguments|tojson }}"
_PYTHON = "{{ '%r' % (v,) }}"
# Opening of the list, a call, between two calls, closing of the list.
STYLES = {
    "json in tags": (
        "",
        '<call>{"name": "{{ f.name }}", "arguments": ' + _JSON + "}</call>",
        "{{ '\n' }}",
        "",
    ),
    "json list": ("<|tools|>[", '{"name": "{{ f.name }}", "parameters": ' + _JSON + "}", ", ", "]<|/tools|>"),
    "json, id first": (
        "[CALLS] [",
        '{"id": "{{ c.id }}", "function": "{{ f.name }}", "args": ' + _JSON + "}",
        ", ",
        "]",
    ),
    "json, id last": (
        "[CALLS][",
        '{"name": "{{ f.name }}", "arguments": ' + _JSON + ', "call": "{{ c.id }}"}',
        ", ",
        "]",
    ),
    "arguments first": ("", '<call>{"arguments": ' + _JSON + ', "name": "{{ f.name }}"}</call>', "", ""),
    "name as a key": ("<|prefix|>[", '{"{{ f.name }}": ' + _JSON + "}", ", ", "]<|suffix|>"),
    "name, then json": ("", "<|invoke|>{{ f.name }}<|with|>" + _JSON + "<|done|>", "", ""),
    "numbered": (
        "<|calls|>",
        "<|call|>fn.{{ f.name }}:{{ loop.index0 }}<|args|>" + _JSON + "<|end_call|>",
        "",
        "<|/calls|>",
    ),
    "fenced json": (
        "",
        "{{ '<tool>' + f.name + '\n```json\n' }}" + _JSON + "{{ '\n```</tool>' }}",
        "{{ '\n' }}",
        "",
    ),
    "name as an attribute": (
        "<calls>",
        '<invoke name="{{ f.name }}">'
        + _ITEMS
        + '<arg key="{{ k }}">'
        + _RAW
        + "</arg>{% endfor %}</invoke>",
        "",
        "</calls>",
    ),
    "typed parameters": (
        "",
        '<do name="{{ f.name }}">'
        + _ITEMS
        + "<p name=\"{{ k }}\" text=\"{{ 'yes' if v is string else 'no' }}\">"
        + _RAW
        + "</p>{% endfor %}</do>",
        "{{ '\n' }}",
        "",
    ),
    "parameters on lines": (
        "",
        "{{ '<run>\n<fn=' + f.name + '>\n' }}"
        + _ITEMS
        + "{{ '<par=' + k + '>\n' }}"
        + _RAW
        + "{{ '\n</par>\n' }}{% endfor %}{{ '</fn>\n</run>' }}",
        "{{ '\n' }}",
        "",
    ),
    "keys and values": (
        "",
        "<t>{{ f.name }}" + _ITEMS + "<k>{{ k }}</k><v>" + _RAW + "</v>{% endfor %}</t>",
        "",
        "",
    ),
    "python calls": (
        "<|py|>[",
        "{{ f.name }}(" + _ITEMS + "{{ k }}=" + _PYTHON + "{{ ', ' if not loop.last }}{% endfor %})",
        ", ",
        "]<|/py|>",
    ),
    "channels": ("", "<|to|>tools.{{ f.name }}<|body|>" + _JSON + "<|sent|>", "", ""),
}


def template(style: str) -> str:
    """A small template that writes calls in a style, and thoughts in marks of its own."""
    begin, call, separator, end = STYLES[style]
    return (
        "{% if tools %}{{ tools|tojson }}{% endif %}"
        "{% for m in messages %}<|turn|>{{ m.role }}{{ '\n' }}"
        "{% if m.reasoning_content %}<|mull|>{{ m.reasoning_content }}<|/mull|>{% endif %}{{ m.content }}"
        "{% for c in m.tool_calls or [] %}{% set f = c.function %}{% if loop.first %}" + begin + "{% else %}"
        + separator + "{% endif %}" + call + "{% if loop.last %}" + end + "{% endif %}{% endfor %}"
        "<|over|>{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant{{ '\n' }}{% endif %}"
    )  # fmt: skip


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(tokenizer("llama-bpe"))


@pytest.mark.parametrize("style", STYLES)
def test_a_style_is_learned_and_grammar_and_parser_agree(compiler: GrammarCompiler, style: str) -> None:
    source = template(style)
    syntax = syntax_of(source)
    assert syntax.kind == "learned"
    turns = Turns(Prober(source))
    for seed in range(8):
        found = disagreement(compiler, tokenizer("llama-bpe"), turns, syntax, random.Random(seed))
        assert found is None


ORDERS = {
    "json in tags": '<call>{"arguments": {"a": [1, "}"]}, "name": "get"}</call>',
    "json list": '<|tools|>[{"parameters": {"a": [1, "}"]}, "name": "get"}]<|/tools|>',
    "json, id first": '[CALLS] [{"function": "get", "id": "x", "args": {"a": [1, "}"]}}]',
    "json, id last": '[CALLS][{"call": "x", "name": "get", "arguments": {"a": [1, "}"]}}]',
    "arguments first": '<call>{"name": "get", "arguments": {"a": [1, "}"]}}</call>',
}


@pytest.mark.parametrize("style", ORDERS)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_keys_of_a_call_may_stand_in_another_order(style: str, size: int) -> None:
    written = "Looking. " + ORDERS[style]
    parser = PartParser(syntax_of(template(style)), ["get"])
    parts = [p for i in range(0, len(written), size) for p in parser.push(written[i : i + size])]
    parts += parser.flush()
    assert "".join(p.text for p in parts if isinstance(p, Words)).strip() == "Looking."
    calls = [p for p in parts if isinstance(p, Call)]
    assert [p.name for p in calls if p.name is not None] == ["get"]
    assert json.loads("".join(p.arguments for p in calls)) == {"a": [1, "}"]}


def test_two_calls_in_another_order_are_two() -> None:
    written = ORDERS["json in tags"] + "\n" + ORDERS["json in tags"].replace("get", "put")
    found = parse(PartParser(syntax_of(template("json in tags")), ["get", "put"]), written)
    assert [name for name, _ in found.calls] == ["get", "put"]


@pytest.mark.parametrize(
    "rest", ['{"arguments": {}}', '{"arguments": {}, "name": "other"}', '{"name', "is a tag"]
)
def test_what_is_no_call_in_any_order_is_words(rest: str) -> None:
    found = parse(PartParser(syntax_of(template("json in tags")), ["get"]), "<call>" + rest)
    assert (found.words, found.calls) == ("<call>" + rest, ())


@pytest.mark.parametrize("style", STYLES)
def test_thoughts_in_marks_of_a_templates_own(style: str) -> None:
    message = edgellm.chat.parse(template(style), "<|mull|>Two and two.<|/mull|>Four.<|over|>\n")
    assert (message.thoughts, message.content, message.tool_calls) == ("Two and two.", "Four.", [])


def test_a_template_that_knows_nothing_of_calls_has_the_generic_form() -> None:
    assert syntax_of("{% for m in messages %}{{ m.content }}{% endfor %}").kind == "generic"
