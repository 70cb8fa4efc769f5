"""Turns of the assistant as a template renders them: the material that a syntax is learned from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgellm.chat.probing import NAMES, Prober, assistant, call, result, tool, user
from edgellm.chat.syntax import atoms

KEYS = ("zqka", "zqkb", "zqkc")
NUMBERS = (70417, 80523, 90631)
WORDS = "zqwords"
TRICKY = "zq\"a'b\\c\nd<é&"
NUMBER_TYPE = {"type": "integer"}


class Turns:
    """Turns of the assistant as the template renders them."""

    def __init__(self, probes: Prober) -> None:
        self.probes = probes
        self.ask = user(probes.content("zqask"))
        number = {"type": "integer"}
        self.tools: list[dict[str, Any]] = [tool(0, dict.fromkeys(KEYS, number)), tool(1, {KEYS[2]: number})]
        self._always_opens = False
        self.prompt, self.tool_prompt = self._prompt(None), self._prompt(self.tools)

    def _prompt(self, tools: Any) -> str:
        """Text that a prompt adds to open a turn of the assistant."""
        closed = self.probes.render([self.ask], tools)
        opened = self.probes.render([self.ask], tools, prompt=True)
        if closed is None or opened is None:
            return ""
        self._always_opens = closed == opened and opened.rstrip()[-5:] != "zqask"
        # A template that opens a turn whatever it is asked for: the user's message ends, and the turn begins.
        start = opened.rfind("zqask") + 5 if self._always_opens else shared_length(closed, opened)
        return opened[start:]

    def turn(
        self, message: Mapping[str, Any], *needed: str, tools: Any = None, **variables: Any
    ) -> str | None:
        """The rendering of the assistant's message that has all the needed texts."""
        results = [result(i, ids=self.probes.ids) for i in range(len(message.get("tool_calls", ())))]
        closed = self.probes.render([self.ask], tools, **variables)
        follow = [] if results else [user(self.probes.content("zqmore"))]
        for after in ([], results or follow, [*results, *follow, assistant(self.probes.content("zqlast"))]):
            shown = self.probes.render([self.ask, message, *after], tools, **variables)
            if shown is None:
                continue
            known = closed is not None and not self._always_opens
            start = shared_length(closed or "", shown) if known else shown.find("zqask") + 5
            text = shown[start:]
            for end in ("zqresult", "zqmore", "zqlast"):
                text = text[: text.find(end)] if end in text else text
            if all(part in text for part in needed):
                return text
        return None

    def calls(self, *arguments: Mapping[str, Any], tools: Any = None, **fields: Any) -> str | None:
        """The rendering of calls with these arguments."""
        text = self.probes.arguments_form == "text"
        given = [json.dumps(a, ensure_ascii=False) if text else a for a in arguments]
        words = fields.pop("content", "")
        content = None if self.probes.no_content and not words else self.probes.content(words)
        ids = self.probes.ids
        message = assistant(content, tool_calls=[call(i, a, ids) for i, a in enumerate(given)], **fields)
        return self.turn(message, *NAMES[: len(given)], tools=tools or self.tools)


def shared_length(first: str, second: str) -> int:
    """Number of characters that two texts begin with in common."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if first.startswith(second[:middle]) else (low, middle - 1)
    return low


def after_prompt(text: str, prompt: str) -> str:
    """Text of a turn after the part that it shares with the prompt."""
    mine, theirs = atoms(text), atoms(prompt)
    n = 0
    while n < min(len(mine), len(theirs)) and mine[n] == theirs[n]:
        n += 1
    return "".join(mine[n:])
