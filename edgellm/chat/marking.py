"""Keep track of which characters of a rendered prompt a person wrote, through whatever a template does.

Special tokens (`<|im_end|>`, `[INST]`) steer the model; text that merely spells one must stay text. The
tokenizer matches special tokens only in trusted characters, so it needs to know the untrusted ones. A
template is a program that trims, splits and joins what it is given, so positions do not survive it.
Instead, before rendering, every character of a person's text that could begin or end a special token is
followed by a sentinel: a private-use character that occurs nowhere in the input. Afterwards, the
character before each sentinel is untrusted, and the sentinels are taken out.

A special token that begins and ends with trusted characters could still hold a person's text in its
middle (`<` + "s" + `>`); texts that short and fitting are marked on their first character too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from edgellm.errors import TemplateError

_PRIVATE_USE = range(0xE000, 0xF8FF)
_TAG = re.compile(r"</?[a-zA-Z_][a-zA-Z0-9_ :.-]*>")


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
        # Words and spaces are too common to mark one by one: they are marked where the whole text occurs.
        rare = {edge for edge in edges if not edge.isalnum() and not edge.isspace()}
        wordy = sorted((t for t in texts if t[0] not in rare or t[-1] not in rare), key=len, reverse=True)
        patterns = ["[" + "".join(map(re.escape, sorted(rare))) + "]"] if rare else []
        patterns += [f"(?:{re.escape(text[0])}(?={re.escape(text[1:])}))" for text in wordy]
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def sentinel(self, inputs: Iterable[str]) -> str:
        """A character that occurs in none of `inputs`."""
        used = set().union(*map(set, inputs))
        for code in _PRIVATE_USE:
            if chr(code) not in used:
                return chr(code)
        raise TemplateError(
            "The messages contain every private-use character of Unicode, so none is left to mark them with"
        )

    def mark(self, text: str, sentinel: str, *, own_words: bool = False, free: bool = False) -> str:
        """`text` with a sentinel after each character that a special token could begin or end with.

        `own_words`: the model wrote this; markers such as `<think>` stay whole (control tokens do not).
        `free`: nothing in a template compares this text with a constant, so short texts that would fit
        inside a special token are marked as well.
        """
        if self._pattern is None or not text:
            return text
        if not own_words:
            marked = self._pattern.sub(lambda m: m[0] + sentinel, text)
        else:
            pieces = []
            start = 0
            for tag in _TAG.finditer(text):
                if tag[0] not in self._controls:
                    pieces += [
                        self._pattern.sub(lambda m: m[0] + sentinel, text[start : tag.start()]),
                        tag[0],
                    ]
                    start = tag.end()
            pieces.append(self._pattern.sub(lambda m: m[0] + sentinel, text[start:]))
            marked = "".join(pieces)
        if (
            free
            and len(text) < self._longest
            and marked == text
            and any(text in special and text != special for special in self._texts)
        ):
            return text[0] + sentinel + text[1:]
        return marked

    def mark_all(self, value: Any, sentinel: str) -> Any:
        """`mark` on every string in JSON-like data, keys included; lists and objects are new."""
        if isinstance(value, str):
            return self.mark(value, sentinel)
        if isinstance(value, list):
            return [self.mark_all(item, sentinel) for item in value]
        if isinstance(value, dict):
            return {self.mark(key, sentinel): self.mark_all(item, sentinel) for key, item in value.items()}
        return value


def segments(rendered: str, sentinel: str) -> list[tuple[str, bool]]:
    """Cut a rendered prompt into (text, trusted), without sentinels; what was before one is untrusted."""
    result: list[tuple[str, bool]] = []
    start = 0
    for found in re.finditer(f"([^{sentinel}]?){sentinel}+", rendered):
        if found.start() > start:
            result.append((rendered[start : found.start()], True))
        if found[1]:
            result.append((found[1], False))
        start = found.end()
    if start < len(rendered):
        result.append((rendered[start:], True))
    return result
