"""Limits of one rendering of a chat template: steps, call depth, and the size of any text it makes.

A chat template comes with the model file and is untrusted code. A step is about a microsecond of
work; everything a template does is charged before it is done, so that a hostile one fails early
whatever the machine's speed, and with the same message everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgellm.chat.jinja import Undefined
from edgellm.chat.marking import Marks
from edgellm.errors import TemplateError

BASE_STEPS = 50_000
STEPS_PER_INPUT_NODE = 300
"""Messages and tools are data of the caller: a long conversation may take proportionally longer."""
STEPS_PER_CHAR = 4
MAX_LOOPED = 1 << 17
"""A template may loop over so many characters of content; those above pay for copies only.

A rendering takes at most 50,000 steps, 300 a value, and 4 a character of messages and tools. A step is
half a microsecond to two microseconds.
"""
BASE_TEXT = 1 << 20
MAX_DEPTH = 40
MAX_INT_BITS = 256


class LimitError(TemplateError):
    """A chat template exceeded one of its limits."""


@dataclass(slots=True)
class Budget:
    """The account of one rendering; `steps` and `text` (characters in one string) are what is allowed.

    `marks` are the stand-ins of untrusted characters in the texts of this rendering. `chosen`: for each loop
    that looks for items, the list it has seen last and the items that passed its test.
    """

    steps: int = BASE_STEPS
    text: int = BASE_TEXT
    depth: int = 0
    marks: Marks = field(default_factory=Marks)
    chosen: dict[int, tuple[list[Any], list[Any] | None]] = field(default_factory=dict)

    def charge(self, steps: int) -> None:
        """Take `steps` from the account; LimitError when it is empty."""
        self.steps -= steps
        if self.steps < 0:
            raise LimitError("The chat template runs too long (more steps than its limit allows)")

    def check_text(self, n_chars: int) -> None:
        """Raise LimitError if a text of `n_chars` characters is too long."""
        if n_chars > self.text:
            raise LimitError(
                f"The chat template makes a text longer than its limit of {self.text} characters"
            )

    def weigh(self, value: object, *, plain: bool = False) -> int:
        """Charge for looking at all of `value` and return about how many characters its text has.

        A value that occurs twice counts twice: that is what copying, comparing and printing it cost.
        `plain` refuses what has no text of its own (namespaces, macros, generators).
        """
        if type(value) is str:
            self.charge(1 + (len(value) >> 8))
            return len(value)
        size = 0
        stack: list[object] = [value]
        while stack:
            item = stack.pop()
            kind = type(item)
            if isinstance(item, str):
                self.charge(1 + (len(item) >> 8))
                size += len(item) + 2
                continue
            self.charge(1)
            if isinstance(item, dict):
                stack.extend(item.keys())
                stack.extend(item.values())
                size += 4
            elif isinstance(item, list | tuple | type({}.items()) | type({}.keys()) | type({}.values())):
                self.charge(len(item) >> 4)
                stack.extend(item)
                size += 4
            elif isinstance(item, range):
                self.charge(len(item))
                size += 12 * len(item)
            elif kind is int:
                assert isinstance(item, int)
                size += 2 + item.bit_length() // 3
            elif item is None or kind is bool or kind is float or isinstance(item, Undefined):
                size += 24
            elif plain:
                raise TemplateError(f"The chat template uses a {kind.__name__} where it needs text")
        return size


def budget_for(n_nodes: int, n_chars: int) -> Budget:
    """A budget for messages and tools of `n_nodes` values and `n_chars` characters."""
    steps = STEPS_PER_INPUT_NODE * n_nodes + STEPS_PER_CHAR * min(n_chars, MAX_LOOPED) + n_chars // 4
    return Budget(BASE_STEPS + steps, BASE_TEXT + 2 * n_chars)
