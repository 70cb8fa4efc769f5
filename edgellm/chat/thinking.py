"""Levels of thinking of a template: the variables that switch thoughts on or off, or set their effort.

A variable counts if two of its values make two different prompts. Words of a system message that a template
looks for are levels, too (`messages.SYSTEM_WORDS`). A template that ignores them all has no levels.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from edgellm.chat.learning import learn_thoughts
from edgellm.chat.messages import SYSTEM_WORDS
from edgellm.chat.probing import Prober, prober, user
from edgellm.chat.syntax import BOS, EOS

LEVELS = ("on", "off", "low", "medium", "high")

Variables = Mapping[str, Any]

# Name, value for on, value for off.
_SWITCHES = (
    ("enable_thinking", True, False),
    ("thinking", True, False),
    ("thinking_option", "on", "off"),
    ("thinking_mode", "thinking", "chat"),
    ("thinking_budget", -1, 0),
)
_SWITCH_WORDS = (("/think", "/no_think"), ("detailed thinking on", "detailed thinking off"))
_EFFORTS = ("reasoning_effort", "reasoning_strength")
_WORDS = {"low": ("low", "minimal"), "medium": ("medium",), "high": ("high", "xhigh", "max")}
_UNKNOWN = "zqeffort"
_NOTHING: Variables = MappingProxyType({})


@functools.lru_cache(maxsize=64)
def levels(source: str, bos: str = BOS, eos: str = EOS) -> Mapping[str, Variables]:
    """Template variables of each level of LEVELS that the template can honour."""
    probes = prober(source, bos, eos)
    thinks = learn_thoughts(source, bos, eos).thinks
    switch = _switch(probes)
    found: dict[str, Variables] = {}
    if switch is None:
        switch = _switch_of_words(probes)
    if switch is not None:
        name, on, off = switch
        found = {"on": {name: on}, "off": {name: off}}
    efforts = _efforts(probes, found.get("on", _NOTHING))
    found = {**efforts, **found}
    if not thinks and not found:
        return MappingProxyType({"off": _NOTHING})
    if "on" not in found and thinks:
        shown = _prompt(probes, _NOTHING)
        silent = "off" in found and _prompt(probes, found["off"]) == shown
        found["on"] = found.get("high", _NOTHING) if silent else _NOTHING
    if switch is not None and not efforts:
        found.update(dict.fromkeys(_WORDS, found["on"]))
    return MappingProxyType(found)


def _prompt(probes: Prober, variables: Variables) -> str | None:
    return probes.render([user(probes.content("zqask"))], prompt=True, **variables)


def _switch(probes: Prober) -> tuple[str, Any, Any] | None:
    """The first variable that switches thoughts, with its values for on and off."""
    for name, on, off in _SWITCHES:
        if name in probes.source:
            shown, hidden = _prompt(probes, {name: on}), _prompt(probes, {name: off})
            if shown is not None and hidden is not None and shown != hidden:
                return name, on, off
    return None


def _switch_of_words(probes: Prober) -> tuple[str, Any, Any] | None:
    """The words of a system message that switch thoughts: they change more of a prompt than they add."""
    ask = user(probes.content("zqask"))
    for on, off in _SWITCH_WORDS:
        if off not in probes.source:
            continue
        shown = [
            probes.render([{"role": "system", "content": probes.content(words)}, ask], prompt=True)
            for words in (on, off)
        ]
        left = [text and text.replace(words, "") for text, words in zip(shown, (on, off), strict=True)]
        if None not in left and left[0] != left[1]:
            return SYSTEM_WORDS, on, off
    return None


def _efforts(probes: Prober, on: Variables) -> dict[str, Variables]:
    """Variables of the levels low, medium and high, and of off if an effort of none exists."""
    for name in _EFFORTS:
        if name in probes.source and (found := _words_of(probes, name, on)):
            return found
    plain = _prompt(probes, on)
    flags = {level: {**on, f"{level}_effort": True} for level in _WORDS if f"{level}_effort" in probes.source}
    found = {level: given for level, given in flags.items() if _prompt(probes, given) not in (None, plain)}
    return {**found, "high": found.get("high", on)} if found else {}


def _words_of(probes: Prober, name: str, on: Variables) -> dict[str, Variables]:
    """Variables of the levels by a variable that takes words; empty if no word changes the prompt."""
    unknown = _prompt(probes, {**on, name: _UNKNOWN})
    echoes = unknown is not None and _UNKNOWN in unknown
    words = [word for known in _WORDS.values() for word in known]
    shown = {word: _prompt(probes, {**on, name: word}) for word in (*words, "none")}
    if len({text for text in shown.values() if text is not None}) < 2:
        return {}

    def knows(word: str) -> bool:
        if shown[word] is None:
            return False
        quoted = f"'{word}'" in probes.source or f'"{word}"' in probes.source
        return echoes or shown[word] != unknown or quoted

    found: dict[str, Variables] = {}
    for level, known in _WORDS.items():
        word = next(filter(knows, known), None)
        if word is not None:
            found[level] = {**on, name: word}
    if not echoes and shown["none"] not in (None, unknown):
        found["off"] = {name: "none"}
    return found
