"""The Lark grammar of an answer that may think and call tools, from the syntax of its template."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from edgellm.chat.argument_grammar import ArgumentGrammar
from edgellm.chat.parts import trigger_of
from edgellm.chat.schema import grammar_schema
from edgellm.chat.syntax import Piece, Slot, Syntax, first_mark, merge
from edgellm.chat.tools import Tool, ToolChoice
from edgellm.errors import UsageError

MAX_CALLS = 8
Thoughts = Literal["none", "may", "open"]


def call_grammar(
    syntax: Syntax,
    tools: Sequence[Tool],
    choice: ToolChoice,
    controls: Mapping[str, int],
    *,
    thoughts: Thoughts = "none",
) -> str:
    """The Lark grammar of an answer that may call tools, arguments valid against their schemas.

    controls: ids of those texts of the syntax that are control tokens of the vocabulary. thoughts: if the
    answer may begin with a thought, or is already inside one. Raises UsageError for an unknown name or a
    bad schema.
    """
    if choice.name is not None:
        tools = [tool for tool in tools if tool.name == choice.name]
        if not tools:
            raise UsageError(f"tool_choice names {choice.name!r}, and no tool has that name.")
    writer = _Writer(syntax, controls)
    several = choice.parallel and syntax.several
    calls = writer.calls("first", syntax.first, tools, several)
    header = writer.header()
    thought = "" if thoughts == "none" else _joined("thought", header)
    rules = _thought_rules(thoughts, syntax, controls)
    if choice.mode == "required":
        return "\n".join([f"start: {_joined(thought, calls)}", *writer.rules, *rules])
    if syntax.words_begin:
        words = _joined(f"({writer.literal(syntax.words_begin)})?", "FREE?")
        rules.append(rf"FREE: {_without(writer.opening_text())}")
        return "\n".join([f"start: {_joined(thought, f'({calls} | {words})')}", *writer.rules, *rules])
    trigger = trigger_of(syntax.later)
    if not trigger:
        # An answer that begins as a call does is one.
        lead = writer.opening_text()[:1]
        rules.append(
            rf"FREE: /[^{re.escape(lead)}](.|\n)*/" if lead and not lead.isalnum() else r"FREE: /(.|\n)+/"
        )
        tag = controls.get("<|python_tag|>")
        tagged = "" if tag is None else f" | <[{tag}]> {calls}"
        return "\n".join([f"start: {_joined(thought, f'({calls} | FREE)')}{tagged}", *writer.rules, *rules])
    rest = _after(syntax.later, trigger)
    following = writer.calls("later", rest, tools, several)
    if trigger in controls:
        rules.append(r"FREE: /(.|\n)+/")
        body = f"FREE? (<[{controls[trigger]}]> {following})?"
    else:
        rules.append(f"FREE: {_without(trigger)}")
        rules.append(rf"upto[lazy]: /(.|\n)*{_escape(trigger)}/")
        body = f"(upto {following} | FREE?)"
    if syntax.first != syntax.later and trigger_of(syntax.first) != trigger:
        body = f"({calls} | {body})"
        return "\n".join([f"start: {_joined(thought, body)}", *writer.rules, *rules])
    unused = {f"first_{i}" for i in range(len(tools))}
    kept = [rule for rule in writer.rules if rule.partition(":")[0] not in (unused | {"first_calls"})]
    return "\n".join([f"start: {_joined(thought, body)}", *kept, *rules])


def thought_grammar(
    schema: Mapping[str, Any], controls: Mapping[str, int], thoughts: Thoughts, syntax: Syntax
) -> str:
    """The Lark grammar of JSON after thoughts."""
    text = json.dumps(grammar_schema(schema), ensure_ascii=False)
    writer = _Writer(syntax, controls)
    words = f"({writer.literal(syntax.words_begin)})?" if syntax.words_begin else ""
    rules = _thought_rules(thoughts, syntax, controls)
    return "\n".join(
        [f"start: {_joined('thought', writer.header(), words, 'json')}", f"json: %json {text}", *rules]
    )


class _Writer:
    """Writes the rules of calls; arguments are written once for each tool."""

    def __init__(self, syntax: Syntax, controls: Mapping[str, int]) -> None:
        self.rules: list[str] = []
        self._syntax = syntax
        self._controls = controls
        self._arguments: dict[str, str] = {}

    def literal(self, text: str) -> str:
        """A text in Lark, control tokens by their ids."""
        return literal(text, self._controls)

    def header(self) -> str:
        """The header of another message after a thought, where the template writes one."""
        syntax = self._syntax
        mark = first_mark(syntax.header)
        return f"({self.literal(syntax.header)})?" if mark and syntax.words_begin else ""

    def opening_text(self) -> str:
        """The text that the first call of an answer begins with."""
        first = self._syntax.first[0] if self._syntax.first else ""
        return first if isinstance(first, str) else ""

    def calls(self, name: str, opening: Sequence[Piece], tools: Sequence[Tool], several: bool) -> str:
        """The name of the rule of one or more calls of which the first opens with `opening`."""
        syntax = self._syntax
        for i, tool in enumerate(tools):
            self.rules.append(f"{name}_{i}: {self._call(opening, i, tool)}")
        first = " | ".join(f"{name}_{i}" for i in range(len(tools)))
        more = ""
        if several:
            if "next_call" not in self._arguments:
                self._arguments["next_call"] = "next_call"
                for i, tool in enumerate(tools):
                    self.rules.append(
                        f"next_{i}: {self._call(merge((syntax.separator, *syntax.head)), i, tool)}"
                    )
                self.rules.append("next_call: " + " | ".join(f"next_{i}" for i in range(len(tools))))
            more = f"next_call{{0,{MAX_CALLS - 1}}}"
        lead = f"({self.literal(syntax.lead)})?" if name == "first" and syntax.lead else ""
        end = self.literal(syntax.end)
        if not syntax.lone_end:
            end = f"({end})?"
        self.rules.append(f"{name}_calls: {_joined(lead, f'({first})', more, end)}")
        return f"{name}_calls"

    def _call(self, opening: Sequence[Piece], i: int, tool: Tool) -> str:
        head = [self._piece(piece, tool.name) for piece in opening]
        closing = [self._piece(piece, tool.name) for piece in self._syntax.closing]
        return _joined(*head, self._tool_arguments(i, tool), *closing)

    def _piece(self, piece: Piece, name: str) -> str:
        if isinstance(piece, str):
            return self.literal(piece)
        if piece is Slot.NAME:
            return json.dumps(name)
        terminal, pattern = ("CALL_ID", "[a-zA-Z0-9]{9}") if piece is Slot.ID else ("INDEX", "[0-9]{1,2}")
        if terminal not in self._arguments:
            self._arguments[terminal] = terminal
            self.rules.append(f"{terminal}: /{pattern}/")
        return terminal

    def _tool_arguments(self, i: int, tool: Tool) -> str:
        key = f"args_{i}"
        if key not in self._arguments:
            syntax = self._syntax
            ends = [
                text
                for text in (
                    *(piece for piece in syntax.closing[:1] if isinstance(piece, str)),
                    syntax.separator,
                    syntax.end,
                )
                if text
            ]
            grammar = ArgumentGrammar(key, syntax.arguments, ends, self.literal)
            self._arguments[key] = grammar.write(tool.parameters)
            self.rules += grammar.rules
        return self._arguments[key]


def _after(opening: Sequence[Piece], trigger: str) -> tuple[Piece, ...]:
    """The pieces of an opening after its trigger."""
    first = opening[0]
    assert isinstance(first, str)
    return merge((first[first.find(trigger) + len(trigger) :], *opening[1:]))


def _thought_rules(thoughts: Thoughts, syntax: Syntax, controls: Mapping[str, int]) -> list[str]:
    if thoughts == "none":
        return []
    begin = "" if thoughts == "open" else literal(syntax.think_begin, controls)
    end = syntax.think_end
    if any(text in end for text in controls):
        rules = [f"thinking: {_joined(begin, 'THOUGHTS?', literal(end, controls))}", r"THOUGHTS: /(.|\n)+/"]
    else:
        rules = [
            f"thinking: {_joined(begin, 'upto_end')}",
            rf"upto_end[lazy]: /(.|\n)*{_escape(end)}/",
        ]
    whole = "thinking LINES?" if thoughts == "open" else "(thinking LINES?)?"
    return [f"thought: {whole}", *rules, r"LINES: /\n{1,2}/"]


def literal(text: str, controls: Mapping[str, int]) -> str:
    """A text in Lark, control tokens by their ids."""
    if not text:
        return ""
    known = sorted(controls, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, known))})", text) if known else [text]
    return " ".join(
        f"<[{controls[part]}]>" if part in controls else json.dumps(part, ensure_ascii=False)
        for part in parts
        if part
    )


def _joined(*parts: str) -> str:
    return " ".join(part for part in parts if part) or '""'


def _escape(text: str) -> str:
    return re.escape(text).replace("/", r"\/").replace("\\\n", r"\n").replace("\n", r"\n")


def _without(text: str) -> str:
    """The terminal of a text in which another does not occur."""
    if not text:
        return r"/(.|\n)+/"
    return rf"/(.|\n)+/ & ~/(.|\n)*{_escape(text)}(.|\n)*/"
