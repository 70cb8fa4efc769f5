"""Keep track of which characters of a rendered prompt a person wrote, through whatever a template does.

Special tokens (`<|im_end|>`, `[INST]`) steer the model; text that merely spells one must stay text. The
tokenizer matches special tokens only in trusted characters, so it needs to know the untrusted ones. A
template is a program that trims, splits and joins its input, so positions do not survive it. Instead,
before rendering, every character of a person's text that could begin or end a special token is replaced
by a stand-in: a private-use character that occurs nowhere in the input. A stand-in has the length of its
character, so slices and positions are those of the text itself; the sandbox reads texts without their
stand-ins wherever it compares, searches or prints. Afterwards, stand-ins become untrusted characters.

A special token that begins and ends with trusted characters could still hold a person's text in its
middle (`<` + "s" + `>`); texts that short and fitting are marked on their first character too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from typing import Any

from edgellm.errors import TemplateError

# Not compiled yet: that takes half a millisecond, and most texts are ASCII.
_PRIVATE = "[\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd]"
_TAG = re.compile(r"</?[a-zA-Z_][a-zA-Z0-9_ :.-]*>")
_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|U([0-9a-f]{8})|.)", re.DOTALL)
# Characters that printing as JSON or as Python changes: a stand-in would come out unchanged.
_QUOTED = frozenset("\"'\\")


class Marks:
    """The stand-ins of one rendering; `inputs` are all texts that the template is given."""

    def __init__(self, inputs: Iterable[str] = ()) -> None:
        self._used = {char for text in inputs if not text.isascii() for char in re.findall(_PRIVATE, text)}
        self._free = map(chr, chain(range(0xE000, 0xF900), range(0xF0000, 0xFFFFE)))
        self._stand_ins: dict[str, str] = {}
        self._chars: dict[str, str] = {}

    def of(self, char: str) -> str:
        """The stand-in for a character."""
        found = self._stand_ins.get(char)
        if found is None:
            found = next((free for free in self._free if free not in self._used), None)
            if found is None:
                raise TemplateError(
                    "The messages contain every private-use character of Unicode, so none is left to mark "
                    "them with"
                )
            self._stand_ins[char] = found
            self._chars[found] = char
        return found

    def in_text(self, text: str) -> bool:
        """True if the text holds a stand-in."""
        return not text.isascii() and bool(self._chars) and self.plain(text) != text

    def plain(self, text: str) -> str:
        """The text itself, without stand-ins."""
        if text.isascii() or not self._chars:
            return text
        return re.sub(_PRIVATE, lambda m: self._chars.get(m[0], m[0]), text)

    def plain_all(self, value: Any) -> Any:
        """`plain` of every text in JSON-like data; data without stand-ins is returned as it is."""
        if not self._chars:
            return value
        if isinstance(value, str):
            return self.plain(value)
        if isinstance(value, list):
            return [self.plain_all(item) for item in value]
        if isinstance(value, tuple):
            return tuple(map(self.plain_all, value))
        if isinstance(value, dict):
            return {self.plain_all(key): self.plain_all(item) for key, item in value.items()}
        return value

    def unescape(self, printed: str) -> str:
        """Python's printed form of a value, stand-ins as characters where Python has escaped them."""
        if not self._chars:
            return printed

        def restore(found: re.Match[str]) -> str:
            code = found[1] or found[2]
            char = chr(int(code, 16)) if code else ""
            return char if char in self._chars else found[0]

        return _ESCAPE.sub(restore, printed)

    def segments(self, rendered: str) -> list[tuple[str, bool]]:
        """A rendered prompt cut into (text, trusted)."""
        if rendered.isascii() or not self._chars:
            return [(rendered, True)] if rendered else []
        result: list[tuple[str, bool]] = []
        start = 0
        for found in re.finditer(_PRIVATE, rendered):
            char = self._chars.get(found[0])
            if char is None:
                continue
            if found.start() > start:
                result.append((rendered[start : found.start()], True))
            result.append((char, False))
            start = found.end()
        if start < len(rendered):
            result.append((rendered[start:], True))
        return result


class Marker:
    """Marks texts for one vocabulary.

    `controls` are the texts of its control tokens, `markers` those of tokens such as `<think>`, which the
    model itself may write.
    """

    def __init__(self, controls: Iterable[str], markers: Iterable[str]) -> None:
        self._controls = frozenset(filter(None, controls))
        texts = sorted(self._controls.union(filter(None, markers)))
        self._texts = texts
        self._longest = max(map(len, texts), default=0)
        edges = {text[i] for text in texts for i in (0, -1)}
        # Words, spaces and quotes are too common to mark one by one: they are marked where the whole text
        # occurs.
        rare = {edge for edge in edges if not edge.isalnum() and not edge.isspace() and edge not in _QUOTED}
        wordy = sorted((t for t in texts if t[0] not in rare or t[-1] not in rare), key=len, reverse=True)
        patterns = ["[" + "".join(map(re.escape, sorted(rare))) + "]"] if rare else []
        for text in wordy:
            at = next((i for i, c in enumerate(text) if c not in _QUOTED and not c.isspace()), 0)
            before = f"(?<={re.escape(text[:at])})" if at else ""
            patterns.append(f"(?:{before}{re.escape(text[at])}(?={re.escape(text[at + 1 :])}))")
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def mark(self, text: str, marks: Marks, *, own_words: bool = False, free: bool = False) -> str:
        """`text` with stand-ins for the characters that a special token could begin or end with.

        `own_words`: the model wrote this; markers such as `<think>` stay whole (control tokens do not).
        `free`: nothing in a template compares this text with a constant, so short texts that would fit
        inside a special token are marked as well.
        """
        pattern = self._pattern
        if pattern is None or not text:
            return text

        def replace(piece: str) -> str:
            return pattern.sub(lambda m: marks.of(m[0]), piece)

        if not own_words:
            marked = replace(text)
        else:
            pieces = []
            start = 0
            for tag in _TAG.finditer(text):
                if tag[0] not in self._controls:
                    pieces += [replace(text[start : tag.start()]), tag[0]]
                    start = tag.end()
            pieces.append(replace(text[start:]))
            marked = "".join(pieces)
        if (
            free
            and len(text) < self._longest
            and marked == text
            and any(text in special and text != special for special in self._texts)
        ):
            return marks.of(text[0]) + text[1:]
        return marked

    def mark_all(self, value: Any, marks: Marks) -> Any:
        """`mark` on every string in JSON-like data, keys included; lists and objects are new."""
        if isinstance(value, str):
            return self.mark(value, marks)
        if isinstance(value, list):
            return [self.mark_all(item, marks) for item in value]
        if isinstance(value, dict):
            return {self.mark(key, marks): self.mark_all(item, marks) for key, item in value.items()}
        return value
