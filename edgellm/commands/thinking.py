"""Answers of a loaded model whose thoughts are taken out of their text."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgellm.chat.call_grammar import thought_grammar
from edgellm.chat.parts import Part, PartParser, Thought, Words
from edgellm.commands.thoughts import Apart
from edgellm.engine.thoughts import control_ids, thought_state

if TYPE_CHECKING:
    from edgellm.engine.model import Model
    from edgellm.engine.options import GenerateOptions
    from edgellm.engine.request import Stats


class ThinkingReply(Iterator[str]):
    """Answer whose pieces are words; `show` gets the pieces of thoughts, and blank lines after them."""

    def __init__(
        self,
        model: Model,
        messages: Sequence[Mapping[str, Any]],
        options: GenerateOptions,
        think: str | None,
        show: Callable[[str], None],
    ) -> None:
        syntax = model.template.syntax()
        shown = frozenset(control_ids(model.tokenizer, syntax).values())
        if options.constraint is not None:
            options = _after_thoughts(model, messages, options, think)
        self._generation = model.chat(messages, options, think=think, shown=shown)
        state = thought_state(model.tokenizer, syntax, self._generation.prompt_ids)
        self._parser = PartParser(syntax, thinks=state == "may", thinking=state == "open")
        self._pieces = self._words()
        self._apart = Apart(show)
        self.text = ""

    @property
    def finish_reason(self) -> str | None:
        return self._generation.finish_reason

    @property
    def stats(self) -> Stats | None:
        return self._generation.stats

    def cancel(self) -> None:
        self._generation.cancel()

    def __next__(self) -> str:
        piece = next(self._pieces)
        self.text += piece
        return piece

    def _words(self) -> Iterator[str]:
        for text in self._generation:
            yield from self._taken(self._parser.push(text))
        yield from self._taken(self._parser.flush())
        self._apart.end()

    def _taken(self, parts: Sequence[Part]) -> Iterator[str]:
        for part in parts:
            if isinstance(part, Thought):
                self._apart.think(part.text)
            elif isinstance(part, Words):
                self._apart.end()
                yield part.text


def _after_thoughts(
    model: Model, messages: Sequence[Mapping[str, Any]], options: GenerateOptions, think: str | None
) -> GenerateOptions:
    """Options whose schema holds for the words, with thoughts before them."""
    syntax = model.template.syntax()
    variables = {} if think is None else model.think_variables(think)
    state = thought_state(model.tokenizer, syntax, model.template.encode(messages, **variables))
    if options.constraint is None or state == "none":
        return options
    controls = control_ids(model.tokenizer, syntax)
    grammar = thought_grammar(json.loads(options.constraint.text), controls, state, syntax)
    return replace(options, schema=None, json=False, grammar=grammar)
