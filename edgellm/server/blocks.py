"""An answer as a list of blocks, one after another: thoughts, words, calls of tools."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from edgellm.chat.bare_calls import Parser
from edgellm.chat.parts import Part, Thought, Words
from edgellm.engine.request import Delta
from edgellm.tokenizer import Tokenizer


@dataclass(slots=True, eq=False)
class Block:
    """A stretch of an answer; `text` of a call is the JSON of its arguments."""

    kind: Literal["thought", "words", "call"]
    index: int
    name: str = ""
    text: str = ""
    key: str = field(default_factory=lambda: uuid.uuid4().hex[:24])

    def arguments(self) -> dict[str, Any] | None:
        """The arguments of a call; None if the answer was cut off within them."""
        try:
            found = json.loads(self.text)
        except ValueError:
            return None
        return found if isinstance(found, dict) else None


class Blocks:
    """Takes an answer's events in; `all` is what has come so far."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser
        self.all: list[Block] = []

    @property
    def calls(self) -> list[Block]:
        return [block for block in self.all if block.kind == "call"]

    def push(self, event: Delta) -> Iterator[tuple[Block, str]]:
        """More of the answer: (block, what is added to it); a block is new if that is all of its text."""
        for part in self._parser.push(event.text):
            yield self._add(part)

    def flush(self) -> Iterator[tuple[Block, str]]:
        """The rest, once the answer has ended."""
        for part in self._parser.flush():
            yield self._add(part)

    def read(self, text: str) -> list[Block]:
        """All blocks of a whole answer, for which nothing has been pushed."""
        for part in [*self._parser.push(text), *self._parser.flush()]:
            self._add(part)
        return self.all

    def n_thought(self, tokenizer: Tokenizer, n_generated: int) -> int:
        """Number of tokens of the thoughts so far, of `n_generated`."""
        thoughts = self.text("thought")
        return min(len(tokenizer.encode(thoughts, add_special=False)), n_generated) if thoughts else 0

    def text(self, kind: str) -> str:
        """The texts of all blocks of a kind."""
        return "".join(block.text for block in self.all if block.kind == kind)

    def _add(self, part: Part) -> tuple[Block, str]:
        if isinstance(part, Words | Thought):
            kind: Literal["words", "thought"] = "words" if isinstance(part, Words) else "thought"
            if not self.all or self.all[-1].kind != kind:
                self.all.append(Block(kind, len(self.all)))
            added = part.text
        else:
            if part.name is not None:
                self.all.append(Block("call", len(self.all), part.name))
            added = part.arguments
        block = self.all[-1]
        block.text += added
        return block, added
