"""Answers that are taken apart as they come: words, thoughts, and calls of tools."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from edgellm.chat.answers import Message, ToolCall, read_arguments
from edgellm.chat.bare_calls import Parser
from edgellm.chat.parts import Part, Thought, Words
from edgellm.engine.request import Event, Request
from edgellm.engine.scheduler import Scheduler
from edgellm.engine.session import Generation


class ChatGeneration(Generation):
    """A Generation whose pieces and text are the words alone.

    parser: takes the answer apart. on_thought: called with each piece of a thought.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        make: Callable[[Callable[[Event], None]], Request],
        parser: Parser,
        on_thought: Callable[[str], None] | None = None,
    ) -> None:
        self._parser = parser
        self._on_thought = on_thought
        self._words = ""
        self._thoughts = ""
        self._calls: list[tuple[str, str]] = []
        self._flushed = False
        self._parts: deque[Part] = deque()
        super().__init__(scheduler, make)

    @property
    def message(self) -> Message:
        """The whole answer as a message: words, thoughts, complete tool calls; waits for its end."""
        self._finish()
        read = ((name, read_arguments(written)) for name, written in self._calls)
        calls = [ToolCall(name, arguments) for name, arguments in read if arguments is not None]
        return Message(self._words.strip(), self._thoughts.strip(), calls)

    @property
    def _text(self) -> str:
        return self._words

    def _next(self) -> str | None:
        while True:
            while self._parts:
                words = self._take(self._parts.popleft())
                if words:
                    self._words += words
                    return words
            if self._flushed:
                return None
            piece = super()._next()
            self._flushed = piece is None
            self._parts.extend(self._parser.flush() if piece is None else self._parser.push(piece))

    def _take(self, part: Part) -> str:
        """Keep what a part holds; returns its words."""
        if isinstance(part, Words):
            return part.text
        if isinstance(part, Thought):
            self._thoughts += part.text
            if self._on_thought is not None:
                self._on_thought(part.text)
        elif part.name is not None:
            self._calls.append((part.name, part.arguments))
        else:
            name, written = self._calls.pop()
            self._calls.append((name, written + part.arguments))
        return ""
