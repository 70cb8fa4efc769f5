"""Calls of tools: every syntax is chosen, allowed by its grammar, and taken apart again."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from edgellm.chat.call_grammar import call_grammar, thought_grammar
from edgellm.chat.parts import Call, PartParser, Thought, Words, parse, trigger_of
from edgellm.chat.tools import ToolChoice, fold_tools, read_tools, syntax_of
from edgellm.engine.grammar import GrammarCompiler
from edgellm.engine.options import Constraint
from edgellm.errors import UsageError
from edgellm.tokenizer import Tokenizer
from tests.support.vocabularies import tokenizer, vocabulary_metadata

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "maximum": 7}},
            "required": ["city"],
        },
    },
}
NOTHING: dict[str, Any] = {"type": "function", "function": {"name": "stop.all-now"}}
TOOLS = read_tools([WEATHER, NOTHING])
NAMES = [tool.name for tool in TOOLS]
TEMPLATES = {
    "mistral": "{{ tools }}[TOOL_CALLS]name[ARGS]</think>",
    "mistral-list": "{{ tools }}[TOOL_CALLS] [</think>",
    "llama3": "{{ tools }}<|start_header_id|></think>",
    "hermes": "{{ tools }}<tool_call></think>",
    "turns": "<start_of_turn>",
    "smollm": "named SmolLM",
    "generic": "{{ messages[0].content }}",
}
CALLS = [("get_weather", '{"city": "Par\\"is }{", "days": 3}'), ("stop.all-now", "{}")]


@pytest.fixture(scope="module")
def compiler() -> GrammarCompiler:
    return GrammarCompiler(tokenizer("llama-bpe"))


def fits(compiler: GrammarCompiler, grammar: str, text: str, vocabulary: Tokenizer | None = None) -> bool:
    """True if a grammar allows a text, token by token, and an end after it."""
    vocabulary = vocabulary or tokenizer("llama-bpe")
    matcher = compiler.matcher(Constraint("grammar", grammar))
    tokens = vocabulary.encode(text, add_special=False, parse_special=True)
    for position, token in enumerate(tokens):
        mask = matcher.mask()
        if not mask[token // 32] >> (token % 32) & 1:
            return False
        if matcher.accept(token):
            return position == len(tokens) - 1
    mask = matcher.mask()
    return any(mask[token // 32] >> (token % 32) & 1 for token in vocabulary.eog_ids)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_the_syntax_is_seen_from_the_template(kind: str) -> None:
    assert syntax_of(TEMPLATES[kind]).kind == kind


def test_templates_with_a_syntax_unknown_here_get_the_generic_one() -> None:
    assert syntax_of("{{ tools }}<|tool_call|>").kind == "generic"
    assert not syntax_of("{{ messages }}<|tool_call|>").native


@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize("mode", ["auto", "required"])
def test_grammars_allow_valid_calls_and_no_others(
    compiler: GrammarCompiler, kind: str, mode: Literal["auto", "required"]
) -> None:
    syntax = syntax_of(TEMPLATES[kind])
    grammar = call_grammar(syntax, TOOLS, ToolChoice(mode), {})
    one = [("get_weather", '{"city": "Paris"}')]
    assert fits(compiler, grammar, syntax.write(one))
    assert fits(compiler, grammar, syntax.write(CALLS))
    assert not fits(compiler, grammar, syntax.write([("get_weather", '{"town": "Paris"}')]))
    assert not fits(compiler, grammar, syntax.write([("get_weather", '{"city": "Paris", "days": 8}')]))
    assert not fits(compiler, grammar, syntax.write([("get_water", '{"city": "Paris"}')]))
    assert not fits(compiler, grammar, syntax.write([("stop.all-now", '{"city": "Paris"}')]))
    assert fits(compiler, grammar, "It is warm.") == (mode == "auto")
    if trigger_of(syntax.later):
        assert fits(compiler, grammar, "Let me see.\n" + syntax.write(one)) == (mode == "auto")
    single = call_grammar(syntax, TOOLS, ToolChoice(mode, parallel=False), {})
    assert fits(compiler, single, syntax.write(one))
    assert not fits(compiler, single, syntax.write(CALLS))
    named = call_grammar(syntax, TOOLS, ToolChoice(mode, "stop.all-now"), {})
    assert fits(compiler, named, syntax.write([("stop.all-now", "{}")]))
    assert not fits(compiler, named, syntax.write(one))


@pytest.mark.parametrize("kind", ["hermes", "llama3"])
def test_thoughts_may_come_before_calls_and_json(compiler: GrammarCompiler, kind: str) -> None:
    syntax = syntax_of(TEMPLATES[kind])
    call = syntax.write(CALLS)
    may = call_grammar(syntax, TOOLS, ToolChoice("required"), {}, thoughts="may")
    assert fits(compiler, may, call)
    assert fits(compiler, may, f"<think>\nwell, a { {1: 2} }\n</think>\n\n{call}")
    assert not fits(compiler, may, f"well</think>{call}")
    inside = call_grammar(syntax, TOOLS, ToolChoice("required"), {}, thoughts="open")
    assert fits(compiler, inside, f"well</think>{call}")
    json_after = thought_grammar({"type": "boolean"}, {}, "open", syntax)
    assert fits(compiler, json_after, "hm</think>\ntrue")
    assert not fits(compiler, json_after, "true")
    free = call_grammar(syntax, TOOLS, ToolChoice(), {}, thoughts="may")
    assert fits(compiler, free, "<think>\nhm\n</think>\n\nIt is warm.")


def test_marks_that_are_control_tokens_are_those_tokens() -> None:
    metadata = dict(vocabulary_metadata("llama-bpe"))
    tokens, types = list(metadata["tokenizer.ggml.tokens"]), list(metadata["tokenizer.ggml.token_type"])  # type: ignore[call-overload]
    marks = ("[TOOL_CALLS]", "[ARGS]", "<think>", "</think>")
    for place, mark in zip(range(len(tokens) - 4, len(tokens)), marks, strict=True):
        tokens[place], types[place] = mark, 3
    metadata |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    vocabulary = Tokenizer.from_metadata(metadata)  # type: ignore[arg-type]
    controls = {mark: token for mark in marks if (token := vocabulary.token_id(mark)) is not None}
    compiler = GrammarCompiler(vocabulary)
    for kind in ("mistral", "mistral-list"):
        syntax = syntax_of(TEMPLATES[kind])
        for choice in (ToolChoice(), ToolChoice("required")):
            grammar = call_grammar(syntax, TOOLS, choice, controls, thoughts="may")
            assert fits(compiler, grammar, syntax.write(CALLS), vocabulary)
            assert fits(compiler, grammar, f"<think>hm</think>\n{syntax.write(CALLS)}", vocabulary)
            assert fits(compiler, grammar, "It is warm.", vocabulary) == (choice.mode == "auto")
            wrong = syntax.write([("get_weather", '{"town": 1}')])
            assert not fits(compiler, grammar, wrong, vocabulary)


def in_pieces(parser: PartParser, text: str, size: int) -> list[Words | Thought | Call]:
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    return [part for piece in pieces for part in parser.push(piece)] + parser.flush()


def joined(parts: list[Words | Thought | Call]) -> tuple[str, str, list[list[str]]]:
    words = "".join(part.text for part in parts if isinstance(part, Words))
    thoughts = "".join(part.text for part in parts if isinstance(part, Thought))
    calls: list[list[str]] = []
    for part in parts:
        if isinstance(part, Call):
            assert part.index == len(calls) - (part.name is None)
            if part.name is not None:
                calls.append([part.name, part.arguments])
            else:
                calls[-1][1] += part.arguments
    return words, thoughts, calls


@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_answers_are_taken_apart_however_they_are_cut(kind: str, size: int) -> None:
    syntax = syntax_of(TEMPLATES[kind])
    said = "a < b [1]\n" if trigger_of(syntax.later) else ""
    text = f"<think>\nhm < [x]\n</think>\n\n{said}{syntax.write(CALLS)}"
    words, thoughts, calls = joined(in_pieces(PartParser(syntax, NAMES, thinks=True), text, size))
    assert (words, thoughts) == (said, "\nhm < [x]\n")
    assert calls == [list(call) for call in CALLS]
    whole = parse(PartParser(syntax, NAMES, thinks=True), text)
    assert (whole.words, whole.thoughts, list(whole.calls)) == (said.strip(), "hm < [x]", CALLS)
    plain = "no <calls> [TOOL at { all }"
    assert joined(in_pieces(PartParser(syntax, NAMES, thinks=True), plain, size)) == (plain, "", [])


@pytest.mark.parametrize("kind", TEMPLATES)
def test_an_answer_cut_off_loses_nothing_but_marks(kind: str) -> None:
    syntax = syntax_of(TEMPLATES[kind])
    text = syntax.write(CALLS)
    for end in range(len(text)):
        parsed = parse(PartParser(syntax, NAMES), text[:end])
        for (name, arguments), (whole_name, whole) in zip(parsed.calls, CALLS, strict=False):
            assert name == whole_name
            assert whole.startswith(arguments)


def test_thoughts_that_the_prompt_began_and_models_that_do_not_think() -> None:
    assert parse(PartParser(thinking=True), "hm</think>\n\nyes").thoughts == "hm"
    assert parse(PartParser(thinking=True), "hm").thoughts == "hm"
    assert parse(PartParser(), "<think>a</think>b").words == "<think>a</think>b"
    assert parse(PartParser(thinks=True), " no <think>").words == " no <think>"
    assert parse(PartParser(thinks=True), "<thi").words == "<thi"


def test_tools_and_calls_are_written_out_for_templates_that_know_nothing_of_them() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "warm"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "dry"}]},
    ]
    folded = fold_tools(messages, TOOLS, syntax_of(""), "{{ messages }}")
    assert [message["role"] for message in folded] == ["system", "user", "assistant", "user"]
    assert "get_weather" in folded[0]["content"]
    assert folded[2]["content"] == '<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call>'
    assert "warm" in folded[3]["content"]
    assert "dry" in folded[3]["content"]
    refuses = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    refusing = fold_tools(messages, TOOLS, syntax_of(""), refuses)
    assert [message["role"] for message in refusing] == ["user", "assistant", "user"]
    assert refusing[0]["content"].startswith("Weather?\n\n")
    native = fold_tools(messages, TOOLS, syntax_of(TEMPLATES["hermes"]), "")
    assert native == messages
    mistral = fold_tools(messages, TOOLS, syntax_of(TEMPLATES["mistral"]), TEMPLATES["mistral"])
    assert len(mistral[2]["tool_call_id"]) == 9
    assert mistral[1]["tool_calls"][0]["id"] == mistral[2]["tool_call_id"]


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        (["x"], r"tools\[0\]"),
        ([{"type": "web_search"}], "function"),
        ([{"type": "function", "function": {}}], "name"),
        ([{"type": "function", "function": {"name": "a b"}}], "name"),
        ([NOTHING, NOTHING], "another tool"),
        ([{"function": {"name": f"f{i}"}} for i in range(2000)], "at most"),
    ],
    ids=range(6),
)
def test_tools_that_cannot_be_used_are_refused(tools: list[object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_tools(tools)


def test_a_choice_of_no_tool_is_refused() -> None:
    with pytest.raises(UsageError, match="no tool has that name"):
        call_grammar(syntax_of(""), TOOLS, ToolChoice("required", "other"), {})


def test_descriptions_do_not_make_grammars_larger() -> None:
    grammar = call_grammar(syntax_of(""), TOOLS, ToolChoice(), {})
    assert "Weather of a city" not in grammar
    assert json.dumps("get_weather")[1:-1] in grammar
