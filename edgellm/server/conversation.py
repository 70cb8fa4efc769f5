"""From a conversation with tools and a format to a prompt, options, and a parser of the answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from edgellm.chat.parts import PartParser
from edgellm.chat.schema import grammar_schema
from edgellm.chat.tools import (
    END_THINK,
    MARKS,
    THINK,
    Syntax,
    Tool,
    ToolChoice,
    call_grammar,
    fold_tools,
    syntax_of,
    thought_grammar,
)
from edgellm.engine.model import Model
from edgellm.engine.options import Constraint, GenerateOptions
from edgellm.errors import UsageError


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a chat's answers start from; `shown`: control tokens that the parser must see."""

    ids: list[int]
    options: GenerateOptions
    shown: frozenset[int]
    syntax: Syntax | None
    names: tuple[str, ...]
    thinks: bool
    thinking: bool
    relaxed: tuple[str, ...] = ()

    def parser(self) -> PartParser:
        """A parser for one of the answers."""
        return PartParser(self.syntax, self.names, thinks=self.thinks, thinking=self.thinking)


def prepare(
    model: Model,
    messages: Sequence[Mapping[str, Any]],
    options: GenerateOptions,
    *,
    tools: Sequence[Tool] = (),
    choice: ToolChoice | None = None,
    variables: Mapping[str, Any] | None = None,
    begun: str = "",
) -> Conversation:
    """Render a conversation, and compile the grammar of its answers; slow, so not on the event loop.

    choice: None if no tool may be called. begun: the beginning of the answer, which goes on from there.
    Raises TemplateError, UnsupportedError or UsageError.
    """
    template = model.template
    source = template.named.get("tool_use", template.source) if tools else template.source
    syntax = syntax_of(source)
    usable = tools if choice is not None else ()
    folded = fold_tools(messages, usable, syntax, source)
    given = [tool.as_dict() for tool in usable] if syntax.native else None
    ids = template.encode(folded, tools=given or None, **(variables or {}))
    if begun:
        ids = ids + model.tokenizer.encode(begun, add_special=False)

    controls = _controls(model)
    thoughts = _thoughts(model, source, ids)
    options = replace(options, stop=(*options.stop, *template.stops))
    if usable and choice is not None:
        options = _with_calls(options, syntax, usable, choice, controls, thoughts)
    elif thoughts != "none" and options.constraint is not None and options.constraint.kind == "schema":
        schema = json.loads(options.constraint.text)
        grammar = thought_grammar(schema, controls, thoughts)
        options = replace(options, schema=None, json=False, grammar=grammar)
    model.compile_grammar(options)
    return Conversation(
        ids,
        options,
        frozenset(controls.values()),
        syntax if usable else None,
        tuple(tool.name for tool in usable),
        thoughts == "may",
        thoughts == "open",
    )


def _with_calls(
    options: GenerateOptions,
    syntax: Syntax,
    tools: Sequence[Tool],
    choice: ToolChoice,
    controls: Mapping[str, int],
    thoughts: Literal["none", "may", "open"],
) -> GenerateOptions:
    """The options with the grammar of answers that may call tools; others follow the format asked for."""
    form = options.constraint
    if form is None or choice.mode == "required":
        grammar = call_grammar(syntax, tools, choice, controls, thoughts=thoughts)
    else:
        calls = call_grammar(syntax, tools, replace(choice, mode="required"), controls, thoughts=thoughts)
        thought = "" if thoughts == "none" else "thought "
        grammar = "\n".join(
            [f"start: called | {thought}formed", calls.replace("start:", "called:", 1), *_formed(form)]
        )
    return replace(options, schema=None, json=False, regex=None, grammar=grammar)


def _formed(form: Constraint) -> list[str]:
    """The Lark rules of a text that follows a format."""
    if form.kind == "schema":
        schema = json.dumps(grammar_schema(json.loads(form.text)), ensure_ascii=False)
        return [f"formed: %json {schema}"]
    if form.kind == "regex":
        pattern = re.sub(r"(?<!\\)/", r"\\/", form.text).replace("\n", "\\n")
        return ["formed: FORMED", f"FORMED: /{pattern}/"]
    raise UsageError(
        "A grammar and tools are given together; leave out one of them, or set tool_choice to none or "
        "required."
    )


def _controls(model: Model) -> dict[str, int]:
    """The ids of the marks around calls and thoughts that are control tokens."""
    found = ((mark, model.tokenizer.token_id(mark)) for mark in MARKS)
    return {mark: token for mark, token in found if token is not None and model.tokenizer.is_special(token)}


def _thoughts(model: Model, source: str, ids: Sequence[int]) -> Literal["none", "may", "open"]:
    """Whether an answer may begin with thoughts, or is inside them already."""
    end = model.tokenizer.decode(ids[-8:], skip_special=False).rstrip()
    if end.endswith(THINK):
        return "open"
    return "may" if THINK in source and not end.endswith(END_THINK) else "none"
