"""Grammars of calls that never fail for a tool's schema: what they cannot express they do not enforce."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from edgellm.chat.call_grammar import call_grammar
from edgellm.chat.parts import trigger_of
from edgellm.chat.relax import Relaxed, relax_arguments
from edgellm.chat.schema import grammar_schema
from edgellm.chat.syntax import Syntax
from edgellm.chat.tools import Tool, ToolChoice
from edgellm.engine.grammar import OWN
from edgellm.engine.options import Constraint, GenerateOptions
from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm.engine.model import Model

# Compilations of one grammar: by form, with each part tried, then with ever fewer schemas.
MAX_ATTEMPTS = 12
ANY_OBJECT = {"type": "object"}


@dataclass(frozen=True, slots=True)
class CallGrammars:
    """Grammars of answers that may call tools; those that do not, follow the format asked for."""

    model: Model
    options: GenerateOptions
    syntax: Syntax
    choice: ToolChoice
    controls: Mapping[str, int]
    thoughts: Literal["none", "may", "open"]

    def compiled(self, tools: Sequence[Tool]) -> tuple[GenerateOptions, tuple[str, ...]]:
        """Options with a compiled grammar, and the fields of tools that it does not enforce.

        Schemas are taken by their form first; only if those fail is every part of them tried, and if all
        together are too large, the largest are not enforced.
        """
        if self.options.constraint is not None:
            self.model.compile_grammar(self.options)  # a bad format is no fault of the tools
        forms = [relax_arguments(tool.parameters) for tool in tools]
        for attempt in range(MAX_ATTEMPTS):
            if attempt == 1:
                forms = [self.model.grammars.fit(tool.parameters) for tool in tools]
            elif attempt > 1:
                forms = _halved(forms)
            usable = [replace(tool, parameters=form.schema) for tool, form in zip(tools, forms, strict=True)]
            options = self._options(usable)
            try:
                self.model.compile_grammar(options)
            except UsageError:
                if attempt == MAX_ATTEMPTS - 1:
                    raise
                continue
            notes = [f"{t.name}.{note}" for t, form in zip(tools, forms, strict=True) for note in form.notes]
            return options, tuple(notes)
        raise AssertionError

    def _options(self, tools: Sequence[Tool]) -> GenerateOptions:
        form, choice = self.options.constraint, self.choice
        if form is None or choice.mode == "required":
            grammar = call_grammar(self.syntax, tools, choice, self.controls, thoughts=self.thoughts)
        else:
            required = replace(choice, mode="required")
            calls = call_grammar(self.syntax, tools, required, self.controls, thoughts=self.thoughts)
            thought = "" if self.thoughts == "none" else "thought "
            grammar = "\n".join(
                [f"start: called | {thought}formed", calls.replace("start:", "called:", 1), *_formed(form)]
            )
        return replace(
            self.options,
            schema=None,
            json=False,
            regex=None,
            grammar=OWN + grammar,
            stop_until=self._first_call(),
        )

    def _first_call(self) -> str:
        """A regular expression of the beginning of calls: stop texts do not end an answer within them."""
        if self.choice.mode == "required":
            return ""
        mark = trigger_of(self.syntax.later)
        if mark:
            return re.escape(mark)
        first = self.syntax.first[0] if isinstance(self.syntax.first[0], str) else ""
        return rf"\A\s*(?:<\|python_tag\|>)?{re.escape(first[:1])}" if first else ""


def _halved(forms: Sequence[Relaxed]) -> list[Relaxed]:
    """The larger half of the schemas that are enforced admits any object."""
    enforced = [n for n, form in enumerate(forms) if form.schema != ANY_OBJECT]
    enforced.sort(key=lambda n: len(str(forms[n].schema)))
    given_up = set(enforced[len(enforced) // 2 :])
    return [Relaxed(ANY_OBJECT, ["schema"]) if n in given_up else form for n, form in enumerate(forms)]


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
