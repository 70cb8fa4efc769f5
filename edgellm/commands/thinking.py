"""Answers of a loaded model whose thoughts are taken out of their text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgellm.commands.thoughts import Thoughts
    from edgellm.engine.model import Model
    from edgellm.engine.options import GenerateOptions
    from edgellm.engine.request import Stats


class ThinkingReply(Iterator[str]):
    """Answer whose pieces are words; `thoughts` gets the others."""

    def __init__(
        self,
        model: Model,
        messages: Sequence[Mapping[str, Any]],
        options: GenerateOptions,
        think: str | None,
        thoughts: Thoughts,
    ) -> None:
        self._thoughts = thoughts
        thoughts.begin()
        self._generation = model.chat(messages, options, think=think, on_thought=thoughts.think)

    @property
    def text(self) -> str:
        return self._generation.text

    @property
    def finish_reason(self) -> str | None:
        return self._generation.finish_reason

    @property
    def stats(self) -> Stats | None:
        return self._generation.stats

    def cancel(self) -> None:
        self._generation.cancel()

    def __next__(self) -> str:
        try:
            return next(self._generation)
        finally:
            self._thoughts.end()
