"""Ways of writing calls and thoughts: learned from small templates, read, and admitted by the grammar."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

import edgellm.chat
from edgellm.chat.call_grammar import call_grammar
from edgellm.chat.messages import named_id, normalize_messages
from edgellm.chat.parts import Call, PartParser, Words, parse
from edgellm.chat.probing import Prober
from edgellm.chat.tools import ToolChoice, read_tools, syntax_of
from edgellm.chat.turns import Turns
from edgellm.engine.grammar import GrammarCompiler
from tests.support.calls import disagreement, first_allowed
from tests.support.paths import TEMPLATES
from tests.support.vocabularies import tokenizer

NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
ONE = ("get_weather", {"city": "Zürich", "unit": "celsius"})
TWO = ("add", {"a": 1, "b": 2})
ASK: dict[str, Any] = {"role": "user", "content": "2+2?"}


def template(name: str) -> str:
    """A template of tests/data/templates: each writes calls in a way of its own."""
    return (TEMPLATES / f"{name}.jinja").read_text()


def turn(source: str, message: dict[str, Any], tools: list[dict[str, Any]] | None) -> tuple[str, str]:
    """An assistant's message as Jinja renders it after the prompt, and the prompt's end."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value, **options: json.dumps(
        value, **{"ensure_ascii": False, **options}
    )

    def render(messages: list[dict[str, Any]], prompt: bool) -> str:
        return environment.from_string(source).render(
            messages=messages, tools=tools, add_generation_prompt=prompt, bos_token="<BOS>", eos_token="<EOS>"
        )

    whole, prompt, before = render([ASK, message], False), render([ASK], True), render([ASK], False)
    if whole.startswith(prompt):
        return whole[len(prompt) :], prompt[-40:]
    assert whole.startswith(before), (whole, before)
    return whole[len(before) :], ""


def tool(name: str, properties: dict[str, str]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    return {
        "type": "function",
        "function": {"name": name, "description": "A tool.", "parameters": parameters},
    }


TOOLS = [
    tool("get_weather", {"city": "string", "unit": "string"}),
    tool("add", {"a": "integer", "b": "integer"}),
]
ANSWERS: dict[str, tuple[list[tuple[str, dict[str, Any]]], str, str]] = {
    "one call": ([ONE], "", ""),
    "two calls": ([ONE, TWO], "", ""),
    "a call after words": ([ONE], "Let me look.", ""),
    "a thought": ([], "Four.", "Two and two."),
    "a call after a thought": ([ONE], "", "Two and two."),
    "words": ([], "Four.", ""),
}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_template_writes_is_read(name: str) -> None:
    source = template(name)
    syntax = syntax_of(source)
    assert syntax.kind == "learned"
    assert syntax.native
    for answer, (calls, words, thought) in ANSWERS.items():
        ids = [named_id(n, i) if "id-holds" in name else f"abcdefgh{i}" for i, (n, _) in enumerate(calls)]
        message: dict[str, Any] = {"role": "assistant", "content": words}
        if calls:
            message["tool_calls"] = [
                {"id": id_, "type": "function", "function": {"name": n, "arguments": a}}
                for id_, (n, a) in zip(ids, calls, strict=True)
            ]
        if thought:
            message |= {"reasoning_content": thought, "thinking": thought}
        text, end = turn(source, message, TOOLS if calls else None)
        read = edgellm.chat.parse(source, text, TOOLS if calls else None, end)
        shown = [call for call in calls if call[0] in text]
        assert shown[:1] == calls[:1], answer
        assert [(call.name, call.arguments) for call in read.tool_calls] == shown, answer
        if thought in text:
            assert read.thoughts == thought, answer
        if not end.rstrip().endswith(("<think>", "<|cot|>")) or syntax.think_end in text:
            assert read.content == (words if words in text else ""), answer


def test_thoughts_are_learned_wherever_a_template_names_them() -> None:
    for name in NAMES:
        source = template(name)
        if "reasoning_content" in source or "m.thinking" in source or "<think>" in source:
            assert syntax_of(source).thinks, name


def test_ids_that_hold_names_are_made_of_a_clients_ids() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages: list[dict[str, Any]] = [
        ASK,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "1"},
        {"role": "assistant", "content": None, "tool_calls": [{**call, "id": "call_2"}]},
        {"role": "tool", "tool_call_id": "call_2", "content": "2"},
    ]
    source = template("id-holds-name")
    forms = Prober(source).forms
    assert forms.named_ids
    shown = edgellm.chat.render(source, normalize_messages(messages, forms), TOOLS)
    assert "<|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>" in shown
    assert "## Return of functions.add:1" in shown


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(tokenizer("llama-bpe"))


@pytest.mark.parametrize("name", NAMES)
def test_grammar_and_parser_agree(compiler: GrammarCompiler, name: str) -> None:
    """A few random tools and arguments; `python -m tests.call_agreement` tries many, and real templates."""
    source = template(name)
    turns = Turns(Prober(source))
    for seed in range(4):
        rng = random.Random(seed)
        assert disagreement(compiler, tokenizer("llama-bpe"), turns, syntax_of(source), rng) is None


ORDERS = {
    "json-in-tags": '<call>{"arguments": {"a": [1, "}"]}, "name": "get"}</call>',
    "json-list": '<|tools|>[{"parameters": {"a": [1, "}"]}, "name": "get"}]<|/tools|>',
    "json-id-first": '[CALLS] [{"function": "get", "id": "x", "args": {"a": [1, "}"]}}]',
    "json-id-last": '[CALLS][{"call": "x", "name": "get", "arguments": {"a": [1, "}"]}}]',
    "arguments-first": '<call>{"name": "get", "arguments": {"a": [1, "}"]}}</call>',
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
    written = ORDERS["json-in-tags"] + "\n" + ORDERS["json-in-tags"].replace("get", "put")
    found = parse(PartParser(syntax_of(template("json-in-tags")), ["get", "put"]), written)
    assert [name for name, _ in found.calls] == ["get", "put"]


@pytest.mark.parametrize(
    "rest", ['{"arguments": {}}', '{"arguments": {}, "name": "other"}', '{"name', "is a tag"]
)
def test_what_is_no_call_in_any_order_is_words(rest: str) -> None:
    found = parse(PartParser(syntax_of(template("json-in-tags")), ["get"]), "<call>" + rest)
    assert (found.words, found.calls) == ("<call>" + rest, ())


@pytest.mark.parametrize("style", [name for name in NAMES if "<|mull|>" in template(name)])
def test_thoughts_in_marks_of_a_templates_own(style: str) -> None:
    message = edgellm.chat.parse(template(style), "<|mull|>Two and two.<|/mull|>Four.<|over|>\n")
    assert (message.thoughts, message.content, message.tool_calls) == ("Two and two.", "Four.", [])


def test_a_template_that_knows_nothing_of_calls_has_the_generic_form() -> None:
    assert syntax_of("{% for m in messages %}{{ m.content }}{% endfor %}").kind == "generic"


AFTER = {
    "json-in-tags": '<call>{"name": "add", "arguments": {"a": 1}}</call>',
    "json-list": '<|tools|>[{"name": "add", "parameters": {"a": 1}}]<|/tools|>',
    "invoke-parameters": (
        '<minimax:tool_call>\n<invoke name="add">\n<parameter name="a">1</parameter>\n</invoke>\n'
        "</minimax:tool_call>"
    ),
    "bare-python": "[add(a=1)]",
    "messages-of-a-turn": (
        "<|tool_calls|><|tool_call:begin|>x<|tool_call:name|>add<|tool_call:args|>"
        '{"a": 1}<|tool_call:end|><|calls|>'
    ),
}


@pytest.mark.parametrize("name", AFTER)
@pytest.mark.parametrize("size", [1, 5, 1000])
@pytest.mark.parametrize("after", ["", "\n", "\nThat was it.", "\nIt is <b>done</b>"])
def test_words_after_calls_are_words(name: str, size: int, after: str) -> None:
    schemas = {"add": TOOLS[1]["function"]["parameters"]}
    syntax = syntax_of(template(name))
    text = AFTER[name] + after + syntax.turn_end
    parser = PartParser(syntax, ["add"], thinks=syntax.thinks, schemas=schemas)
    parts = [part for i in range(0, len(text), size) for part in parser.push(text[i : i + size])]
    parts += parser.flush()
    assert "".join(part.text for part in parts if isinstance(part, Words)) == after.strip()
    assert [part.name for part in parts if isinstance(part, Call) and part.name] == ["add"]


@pytest.mark.parametrize(
    "text", ["it's", 'a "b"', "both ' and \"", "back\\slash", "tab\t", "\x7f", "line\nline"]
)
def test_strings_of_python_calls_are_admitted_as_python_prints_them(
    compiler: GrammarCompiler, text: str
) -> None:
    source = template("python-calls")
    syntax = syntax_of(source)
    message = {"tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": text}}}]}
    shown, _ = turn(source, {"role": "assistant", "content": "", **message}, TOOLS)
    (call,) = edgellm.chat.parse(source, shown, TOOLS).tool_calls
    assert call.arguments == {"city": text}
    grammar = call_grammar(syntax, read_tools(TOOLS), ToolChoice("required"), {})
    answer = shown[: shown.rfind(syntax.end) + len(syntax.end)]
    assert first_allowed(compiler, tokenizer("llama-bpe"), grammar, answer)[0]
