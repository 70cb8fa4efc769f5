"""Thoughts of one answer: if it begins with one, and the budget after which the thought is ended."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from edgellm.chat.syntax import Syntax
    from edgellm.tokenizer import Tokenizer

_State: TypeAlias = Literal["before", "inside", "ending", "after"]

_TAIL = 24  # tokens of a prompt's end that hold the beginning of a thought


def thought_state(
    tokenizer: Tokenizer, syntax: Syntax, prompt: Sequence[int]
) -> Literal["none", "may", "open"]:
    """State at the start of an answer: no thought, a thought that may begin, or one that the prompt began."""
    from edgellm.chat.learning import ends_open

    if not syntax.thinks:
        return "none"
    end = tokenizer.decode(prompt[-_TAIL:], skip_special=False).rstrip()
    if ends_open(end, syntax):
        return "open"
    return "none" if end.endswith(syntax.think_end.strip()) else "may"


def control_ids(tokenizer: Tokenizer, syntax: Syntax) -> dict[str, int]:
    """Ids of the marks around words, calls and thoughts that are control tokens."""
    found = ((mark, tokenizer.token_id(mark)) for mark in syntax.controls(tokenizer.control_texts))
    return {mark: token for mark, token in found if token is not None and token not in tokenizer.eog_ids}


class ThoughtBudget:
    """State of one answer: `n_left` more tokens of thought, then `close`, the tokens that end a thought.

    A second thought that follows the first draws on the same budget.
    """

    def __init__(self, tokenizer: Tokenizer, syntax: Syntax, prompt: Sequence[int], n_tokens: int) -> None:
        self._end = syntax.think_end.strip()
        begin = syntax.think_begin.strip()
        self._begins = (begin, syntax.header.strip() + begin)
        self._close = tokenizer.encode(syntax.think_close, add_special=False, parse_special=True)
        self._decoder = tokenizer.stream(skip_special=False)
        self._words = (tokenizer.n_vocab + 31) // 32
        self.n_left = n_tokens
        self._forced = 0
        self._text = ""
        state = thought_state(tokenizer, syntax, prompt)
        self._state: _State = "before" if state == "may" else "after"
        if state == "open":
            self._enter()

    @property
    def watches(self) -> bool:
        """True until the answer's words begin."""
        return self._state != "after"

    def mask(self, allowed: memoryview | None) -> memoryview | None:
        """Mask of the next token: the one that is forced, unless a grammar forbids it."""
        if self._state != "ending":
            return allowed
        token = self._close[self._forced]
        if allowed is not None and not allowed[token // 32] >> token % 32 & 1:
            return allowed
        only = array("I", bytes(4 * self._words))
        only[token // 32] = 1 << token % 32
        return memoryview(only)

    def accept(self, token: int) -> None:
        """Follow the answer by one token."""
        if self._state == "after":
            return
        self._text += self._decoder.push(token)
        if self._state == "before":
            self._look_for_begin()
        elif self._state == "inside":
            self._count()
        elif token == self._close[self._forced]:
            self._forced += 1
            if self._forced == len(self._close):
                self._leave()
        elif self._end in self._text:  # a grammar wanted another token after the thought
            self._leave()
        else:  # a grammar wanted another one before it, such as the rest of a character
            self._forced = 0

    def _look_for_begin(self) -> None:
        text = self._text.lstrip()
        if text.startswith(self._begins):
            self._enter()
        elif not any(begin.startswith(text) for begin in self._begins):
            self._state = "after"

    def _count(self) -> None:
        self.n_left -= 1
        if self._end in self._text:
            self._leave()
            return
        self._text = self._text[-len(self._end) :]
        if self.n_left <= 0:
            self._state = "ending"

    def _enter(self) -> None:
        self._text = ""
        self._state = "inside" if self.n_left > 0 else "ending"
        self._forced = 0

    def _leave(self) -> None:
        self._text = ""
        self._state = "before"
