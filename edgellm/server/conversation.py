"""From a conversation with tools and a format to a prompt, options, and a parser of the answers."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgellm.chat.call_grammar import thought_grammar
from edgellm.chat.parts import PartParser
from edgellm.chat.syntax import Syntax
from edgellm.chat.tools import Tool, ToolChoice, fold_tools
from edgellm.engine.model import Model
from edgellm.engine.options import GenerateOptions
from edgellm.engine.thoughts import control_ids, thought_state
from edgellm.server.call_grammars import CallGrammars
from edgellm.server.lengths import check_length
from edgellm.server.thoughts import Thinking

log = logging.getLogger("edgellm.server")

MAX_LOGGED = 16
_NO_WISH = Thinking()


@dataclass(frozen=True, slots=True)
class Conversation:
    """The start of a chat's answers; `shown`: control tokens that the parser must see."""

    ids: list[int]
    options: GenerateOptions
    shown: frozenset[int]
    syntax: Syntax
    names: tuple[str, ...]
    thinks: bool
    thinking: bool
    schemas: Mapping[str, Mapping[str, Any]]
    relaxed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def parser(self) -> PartParser:
        """A parser for one of the answers."""
        return PartParser(
            self.syntax, self.names, thinks=self.thinks, thinking=self.thinking, schemas=self.schemas
        )


def prepare(
    model: Model,
    messages: Sequence[Mapping[str, Any]],
    options: GenerateOptions,
    *,
    tools: Sequence[Tool] = (),
    choice: ToolChoice | None = None,
    variables: Mapping[str, Any] | None = None,
    thinking: Thinking = _NO_WISH,
    begun: str = "",
) -> Conversation:
    """Render a conversation, and compile the grammar of its answers; slow, so not on the event loop.

    choice: None if no tool may be called. begun: the beginning of the answer, which goes on from there.
    Raises TemplateError, UnsupportedError or UsageError.
    """
    template = model.template
    source = template.named.get("tool_use", template.source) if tools else template.source
    syntax = template.syntax(tools=bool(tools))
    levels, options, ignored = thinking.apply(template, options, tools=bool(tools))
    unnamed = (name for name in variables or {} if not re.search(rf"\b{re.escape(name)}\b", source))
    ignored += tuple(f"chat_template_kwargs.{name}" for name in unnamed)
    usable = tools if choice is not None else ()
    check_length(model, (text for message in messages if isinstance(text := message.get("content"), str)))
    folded = fold_tools(messages, usable, syntax, source)
    given = [tool.as_dict() for tool in usable] if syntax.native else None
    ids = template.encode(folded, tools=given or None, **{**levels, **(variables or {})})
    if begun:
        ids = ids + model.tokenizer.encode(begun, add_special=False)

    controls = control_ids(model.tokenizer, syntax)
    relaxed: tuple[str, ...] = ()
    thoughts = thought_state(model.tokenizer, syntax, ids)
    options = replace(options, stop=(*options.stop, *template.stops))
    if usable and choice is not None:
        calls = CallGrammars(model, options, syntax, choice, controls, thoughts)
        options, relaxed = calls.compiled(usable)
        if relaxed:
            log.info("%d fields of tools are not enforced: %s", len(relaxed), ", ".join(relaxed[:MAX_LOGGED]))
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
        ignored,
    )
