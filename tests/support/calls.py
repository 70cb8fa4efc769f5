"""Random tools and arguments, and whether a grammar and a parser agree on a template's calls."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgellm.chat.call_grammar import Thoughts, call_grammar
from edgellm.chat.learning import ends_open
from edgellm.chat.messages import named_id
from edgellm.chat.parts import Call, PartParser
from edgellm.chat.probing import assistant
from edgellm.chat.syntax import Syntax
from edgellm.chat.tools import Tool, ToolChoice, read_tools
from edgellm.chat.turns import Turns, after_prompt
from edgellm.engine.grammar import GrammarCompiler
from edgellm.engine.options import Constraint
from edgellm.tokenizer import Tokenizer

_WORDS = [
    "Zürich",
    "a b",
    "東京 😀",
    "x.y",
    "it is",
    "5 km",
    "line one\nline two",
    "f(x)",
    "semi; colon",
    "ü",
    "",
    "42",
    "true",
    "null",
    '"quoted"',
    "it's",
    "back\\slash",
    "a, b=c",
    '{"a": [1]}',
    " between ",
    "<b>",
    "x\n",
]


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema of one value."""
    kinds = ["string", "integer", "number", "boolean", "enum", "array", "object"]
    kind = rng.choice(kinds if depth < 2 else kinds[:5])
    if kind == "enum":
        return {"type": "string", "enum": ["one", "two words", "zwölf"]}
    if kind == "array":
        return {"type": "array", "items": random_schema(rng, depth + 1)}
    if kind == "object":
        return random_object(rng, depth + 1)
    return {"type": kind}


def random_object(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema of an object."""
    names = sorted(rng.sample(["city", "days", "unit", "deep_value", "x1"], rng.randint(1, 3)))
    required = [name for name in names if rng.random() < 0.6]
    properties = {name: random_schema(rng, depth) for name in names}
    return {"type": "object", "properties": properties, "required": required}


def random_value(rng: random.Random, schema: Mapping[str, Any]) -> Any:
    """A value that fits a schema of `random_schema`."""
    if "enum" in schema:
        return rng.choice(schema["enum"])
    kind = schema["type"]
    if kind == "string":
        return rng.choice(_WORDS)
    if kind == "integer":
        return rng.choice([0, 7, -12, 123456])
    if kind == "number":
        return rng.choice([0.5, -2.25, 3])
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "array":
        return [random_value(rng, schema["items"]) for _ in range(rng.randint(0, 2))]
    required = schema.get("required", [])
    return {
        name: random_value(rng, part)
        for name, part in schema["properties"].items()
        if name in required or rng.random() < 0.5
    }


def written_calls(
    turns: Turns, tools: Sequence[Mapping[str, Any]], calls: Sequence[tuple[str, dict[str, Any]]]
) -> str | None:
    """An answer of calls as the template renders it, from the end of the prompt."""
    as_text = turns.probes.arguments_form == "text"
    listed = [
        {
            "id": named_id(name, i) if turns.probes.forms.named_ids else f"zqcallid{i + 1}",
            "type": "function",
            "function": {
                "name": name,
                "arguments": json.dumps(arguments, ensure_ascii=False) if as_text else arguments,
            },
        }
        for i, (name, arguments) in enumerate(calls)
    ]
    content = None if turns.probes.no_content else turns.probes.content("")
    shown = turns.turn(assistant(content, tool_calls=listed), *(name for name, _ in calls), tools=list(tools))
    return None if shown is None else after_prompt(shown, turns.tool_prompt)


def first_allowed(
    compiler: GrammarCompiler, vocabulary: Tokenizer, grammar: str, text: str
) -> tuple[bool, str]:
    """(True if the grammar allows the text and an end after it, the text that it allows)."""
    matcher = compiler.matcher(Constraint("grammar", grammar))
    tokens = vocabulary.encode(text, add_special=False, parse_special=True)
    for position, token in enumerate(tokens):
        mask = matcher.mask()
        if not mask[token // 32] >> (token % 32) & 1:
            return False, vocabulary.decode(tokens[:position])
        if matcher.accept(token):
            return position == len(tokens) - 1, vocabulary.decode(tokens[: position + 1])
    mask = matcher.mask()
    return any(mask[token // 32] >> (token % 32) & 1 for token in vocabulary.eog_ids), text


def disagreement(
    compiler: GrammarCompiler, vocabulary: Tokenizer, turns: Turns, syntax: Syntax, rng: random.Random
) -> str | None:
    """Disagreements of a grammar, a parser and a template over random tools and arguments."""
    functions: list[dict[str, Any]] = [
        {"name": name, "description": "A tool.", "parameters": random_object(rng)}
        for name in ("look_up", "add")
    ]
    given = [{"type": "function", "function": function} for function in functions]
    tools = read_tools(given)
    n = rng.randint(1, 2) if syntax.several else 1
    calls = [(f["name"], random_value(rng, f["parameters"])) for f in functions[:n]]
    shown = written_calls(turns, given, calls)
    if shown is None:
        return f"the template does not write {calls}"
    thinking = ends_open(turns.tool_prompt, syntax)
    read = _read(syntax, tools, [shown], thinking)
    if read != calls:
        return f"the template writes {shown!r} for {calls}, which is read as {read}"
    state: Thoughts = "open" if thinking else "may" if syntax.thinks else "none"
    grammar = call_grammar(syntax, tools, ToolChoice("required"), {}, thoughts=state)
    if thinking and syntax.think_end not in shown:
        shown = syntax.think_close + shown  # earlier turns lose their thoughts
    cut = shown.rstrip().removesuffix(syntax.turn_end.rstrip())
    end = syntax.end or "".join(piece for piece in syntax.closing[-1:] if isinstance(piece, str))
    at_end = shown[: shown.rfind(end) + len(end)] if end in shown else cut
    tried = [
        first_allowed(compiler, vocabulary, grammar, answer)
        for answer in dict.fromkeys((at_end, cut, cut.rstrip(), shown, shown.rstrip()))
    ]
    if not any(fits for fits, _ in tried):
        return f"the grammar of {json.dumps(given)} refuses the template's {at_end!r} after {tried[0][1]!r}"
    mine = syntax.write([(name, json.dumps(arguments)) for name, arguments in calls])
    grammar = call_grammar(syntax, tools, ToolChoice("required"), {})
    fits, allowed = first_allowed(compiler, vocabulary, grammar, mine)
    if not fits:
        return f"the grammar of {json.dumps(given)} refuses {mine!r} after {allowed!r}"
    streamed = _read(syntax, tools, mine, False)
    return None if streamed == calls else f"{mine!r} is read as {streamed} in pieces, expected {calls}"


def _read(syntax: Syntax, tools: Sequence[Tool], pieces: Iterable[str], thinking: bool) -> list[Any]:
    """The calls of an answer that comes in pieces."""
    parser = PartParser(
        syntax,
        [tool.name for tool in tools],
        thinks=syntax.thinks,
        thinking=thinking,
        schemas={tool.name: tool.parameters for tool in tools},
    )
    found: list[list[str]] = []
    for part in [part for piece in pieces for part in parser.push(piece)] + parser.flush():
        if not isinstance(part, Call):
            continue
        if part.name is not None:
            found.append([part.name, ""])
        found[-1][1] += part.arguments
    return [(name, json.loads(arguments or "{}")) for name, arguments in found]
