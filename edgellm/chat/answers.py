"""Rendering and parsing with the source of a template alone, without a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from edgellm.chat.messages import adapt, check_messages, plain_data, rename_thoughts
from edgellm.errors import TemplateError

if TYPE_CHECKING:
    from edgellm.chat.syntax import Syntax


class ToolCall(NamedTuple):
    """A call of a tool: its name, and its arguments as an object."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Message:
    """An answer: words for the reader, the model's thoughts, calls of tools."""

    content: str
    thoughts: str
    tool_calls: list[ToolCall]

    def as_dict(self) -> dict[str, Any]:
        """The answer as a message of a conversation; its calls have the ids call_0, call_1, ..."""
        made: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.thoughts:
            made["reasoning_content"] = self.thoughts
        if self.tool_calls:
            made["tool_calls"] = [
                {
                    "id": f"call_{index}",
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for index, call in enumerate(self.tool_calls)
            ]
        return made


def render_alone(
    source: str,
    messages: Iterable[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    options: Mapping[str, Any],
) -> str:
    """`edgellm.chat.render`."""
    from edgellm.chat.budget import budget_for
    from edgellm.chat.probing import prober
    from edgellm.chat.sandbox import sandbox
    from edgellm.chat.syntax import BOS, EOS
    from edgellm.chat.template import count_values, strings_of

    found = prober(source)
    template = found.template or sandbox().load(source)
    given = [rename_thoughts(message, found.thoughts_key) for message in check_messages(messages)]
    plain_tools = None if tools is None else plain_data(list(tools))
    values = {
        "documents": None,
        "bos_token": BOS,
        "eos_token": EOS,
        "add_generation_prompt": True,
        **{name: plain_data(value) for name, value in options.items()},
        "tools": plain_tools,
    }
    n_chars = len(source) + sum(map(len, (*strings_of(given), *strings_of(plain_tools))))
    n_values = count_values(given) + count_values(plain_tools)

    def rendered(these: Sequence[dict[str, Any]]) -> str:
        return sandbox().render(template, {**values, "messages": these}, budget_for(n_values, n_chars))

    try:
        return rendered(given)
    except TemplateError:
        adapted = adapt(given, found.forms)
        if adapted == given:
            raise
        return rendered(adapted)


def parse_alone(
    source: str, text: str, tools: Sequence[Mapping[str, Any]] | None, prompt_end: str
) -> Message:
    """`edgellm.chat.parse`."""
    from edgellm.chat.learning import ends_open, learn
    from edgellm.chat.parts import PartParser, parse

    syntax = learn(source)
    schemas: dict[str, Mapping[str, Any]] = {}
    for tool in tools or ():
        function = tool.get("function", tool)
        schemas[str(function.get("name"))] = function.get("parameters") or {}
    prompt = prompt_end or syntax.prompt_end
    whole, text = text, _without_header(text, prompt, syntax)
    begun = _header(text, prompt, syntax) if text == whole else ""
    text = text[len(begun) :]
    parser = PartParser(
        syntax,
        tuple(schemas),
        thinks=syntax.thinks,
        thinking=not _opens_again(text, syntax)
        and ((not begun and ends_open(prompt, syntax)) or _closes(text, syntax)),
        any_name=not schemas,
        schemas=schemas,
    )
    parsed = parse(parser, text)
    calls = [ToolCall(name, read_arguments(written) or {}) for name, written in parsed.calls]
    return Message(parsed.words.strip(), parsed.thoughts.strip(), calls)


def _header(text: str, prompt: str, syntax: Syntax) -> str:
    """The beginning of a turn that an answer repeats, up to where its thoughts would be."""
    from edgellm.chat.syntax import atoms, end_mark

    mine, theirs = atoms(text), atoms(prompt)
    n = 0
    while n < min(len(mine), len(theirs)) and mine[n] == theirs[n]:
        n += 1
    shared = "".join(mine[:n])
    if syntax.think_begin.strip():
        shared = shared.partition(syntax.think_begin.strip())[0]
    return shared if end_mark(shared) else ""


def _opens_again(text: str, syntax: Syntax) -> bool:
    """True if an answer opens its thought itself, though the prompt has done so."""
    return bool(syntax.think_begin.strip()) and text.lstrip().startswith(syntax.think_begin.strip())


def _closes(text: str, syntax: Syntax) -> bool:
    """True if an answer ends a thought that it has not begun."""
    end = text.find(syntax.think_end) if syntax.thinks else -1
    begun = syntax.think_begin.strip()
    return end >= 0 and bool(begun) and not syntax.words_begin and begun not in text[:end]


def _without_header(text: str, prompt: str, syntax: Syntax) -> str:
    """An answer without the end of its prompt, which some callers leave before it."""
    from edgellm.chat.syntax import atoms, first_mark

    pieces = atoms(prompt)
    for n in range(len(pieces), 0, -1):
        end = "".join(pieces[-n:])
        if end.strip() and text.startswith(end.rstrip()):
            rest = text[len(end.rstrip()) :].lstrip()
            leads = [piece for piece in (*syntax.first[:1], *syntax.later[:1]) if isinstance(piece, str)]
            begun = (syntax.think_begin, syntax.words_begin, *leads)
            if first_mark(end) or any(b.strip() and rest.startswith(b.strip()) for b in begun):
                return rest
    return text


def read_arguments(written: str) -> dict[str, Any] | None:
    """Arguments of a call; None if an answer that was broken off has left them incomplete."""
    try:
        found = json.loads(written or "{}")
    except ValueError:
        return None
    return found if isinstance(found, dict) else {}
