"""From a conversation with tools and a format to a prompt, options, and a parser of the answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgellm.chat.bare_calls import BareCalls, Parser
from edgellm.chat.call_grammar import thought_grammar
from edgellm.chat.parts import PartParser
from edgellm.chat.syntax import Syntax
from edgellm.chat.tools import Tool, ToolChoice, fold_tools
from edgellm.engine.options import GenerateOptions
from edgellm.engine.thoughts import control_ids, thought_state

if TYPE_CHECKING:
    from edgellm.engine.model import Model
from edgellm.engine.call_grammars import CallGrammars
from edgellm.engine.lengths import check_length


@dataclass(frozen=True, slots=True)
class Conversation:
    """The start of a chat's answers.

    shown: control tokens that the parser must see. relaxed: fields of tools that the grammar does not
    enforce. unnamed: variables that the template does not read.
    """

    ids: list[int]
    options: GenerateOptions
    shown: frozenset[int]
    syntax: Syntax
    names: tuple[str, ...]
    thinks: bool
    thinking: bool
    schemas: Mapping[str, Mapping[str, Any]]
    relaxed: tuple[str, ...] = ()
    unnamed: tuple[str, ...] = ()

    def parser(self) -> Parser:
        """A parser for one of the answers."""
        inner = PartParser(
            self.syntax, self.names, thinks=self.thinks, thinking=self.thinking, schemas=self.schemas
        )
        return BareCalls(inner, self.names) if self.names else inner


def prepare(
    model: Model,
    messages: Sequence[Mapping[str, Any]],
    options: GenerateOptions,
    *,
    tools: Sequence[Tool] = (),
    choice: ToolChoice | None = None,
    levels: Mapping[str, Any] | None = None,
    variables: Mapping[str, Any] | None = None,
    begun: str = "",
) -> Conversation:
    """Render a conversation, and compile the grammar of its answers; slow, so not on the event loop.

    choice: None if no tool may be called. levels: template variables of a level of thinking. variables: those
    of the caller, which win. begun: the beginning of the answer, which goes on from there.
    Raises TemplateError, UnsupportedError or UsageError.
    """
    template = model.template
    source = template.named.get("tool_use", template.source) if tools else template.source
    calls = bool(tools) or any(m.get("tool_calls") or m.get("role") in ("tool", "function") for m in messages)
    syntax = template.syntax(tools=bool(tools)) if calls else template.thoughts()
    unnamed = (name for name in variables or {} if not re.search(rf"\b{re.escape(name)}\b", source))
    usable = tools if choice is not None else ()
    check_length(model, (text for message in messages if isinstance(text := message.get("content"), str)))
    folded = fold_tools(messages, usable, syntax, source)
    given = [tool.as_dict() for tool in usable] if syntax.native else None
    ids = template.encode(folded, tools=given or None, **{**(levels or {}), **(variables or {})})
    if begun:
        ids = ids + model.tokenizer.encode(begun, add_special=False)

    controls = control_ids(model.tokenizer, syntax)
    relaxed: tuple[str, ...] = ()
    thoughts = thought_state(model.tokenizer, syntax, ids)
    options = replace(options, stop=(*options.stop, *template.stops))
    if usable and choice is not None:
        grammars = CallGrammars(model, options, syntax, choice, controls, thoughts)
        options, relaxed = grammars.compiled(usable)
    elif thoughts != "none" and options.constraint is not None and options.constraint.kind == "schema":
        schema = json.loads(options.constraint.text)
        grammar = thought_grammar(schema, controls, thoughts, syntax)
        options = replace(options, schema=None, json=False, grammar=grammar)
    model.compile_grammar(options)
    return Conversation(
        ids,
        options,
        frozenset(controls.values()),
        syntax,
        tuple(tool.name for tool in usable),
        thoughts == "may",
        thoughts == "open",
        {tool.name: tool.parameters for tool in usable},
        relaxed,
        tuple(unnamed),
    )
