"""Learns a template's syntax of answers by rendering probes and comparing them.

Calls with known names, keys and values are rendered; the texts between them are the syntax, and where two
renderings part is where one piece ends. A syntax that does not read its own template's calls is not used.
"""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any

from edgellm.chat import known
from edgellm.chat.learning_calls import Unlearned, learn_calls
from edgellm.chat.messages import THOUGHT_KEYS
from edgellm.chat.notation import NotationError
from edgellm.chat.probing import NAMES, Prober, assistant, prober, tool
from edgellm.chat.syntax import BOS, EOS, GENERIC, Syntax, atoms, first_mark
from edgellm.chat.turns import KEYS, NUMBERS, WORDS, Turns, after_prompt

THOUGHT = "zqthought"
_STAYS: tuple[dict[str, Any], ...] = (
    {},
    {"enable_thinking": True},
    {"thinking": True},
    {"preserve_thinking": True},
    {"clear_thinking": False},
    {"reasoning_effort": "high"},
)


@functools.lru_cache(maxsize=64)
def learn(source: str, bos: str = BOS, eos: str = EOS) -> Syntax:
    """The syntax of a template; the generic one if the template writes no calls."""
    turns = _turns(source, bos, eos)
    syntax = learn_thoughts(source, bos, eos)
    try:
        learned = learn_calls(turns, syntax)
    except (Unlearned, NotationError, ValueError, IndexError):
        learned = None
    if learned is not None and _reads_itself(turns, learned):
        return learned
    return _fall_back(turns, syntax)


@functools.lru_cache(maxsize=64)
def learn_thoughts(source: str, bos: str = BOS, eos: str = EOS) -> Syntax:
    """The syntax of a template without its calls: marks of thoughts and words, header and end of the turn."""
    return _learn_thoughts(_turns(source, bos, eos))


@functools.lru_cache(maxsize=8)
def _turns(source: str, bos: str, eos: str) -> Turns:
    return Turns(prober(source, bos, eos))


def _fall_back(turns: Turns, syntax: Syntax) -> Syntax:
    """The syntax of a template that writes no calls itself: as its model is known to, or the generic one."""
    shows = turns.probes.shows_tools
    entry = known.entry(turns.probes.source, shows)
    if entry is None:
        return syntax
    other = Turns(Prober(entry.template))
    form = learn_calls(other, replace(GENERIC, turn_end=known.TURN_END))
    assert form is not None
    return replace(
        syntax,
        kind=entry.name,
        native=shows and entry.native,
        first=form.first,
        later=form.later,
        head=form.head,
        closing=form.closing,
        separator=form.separator,
        end=form.end,
        lone_end=form.lone_end,
        arguments=form.arguments,
        several=form.several,
    )


# Thoughts.


def _learn_thoughts(turns: Turns) -> Syntax:
    """The marks of thoughts and words, the turn's header and end."""
    prompt = turns.prompt
    plain = turns.turn(assistant(turns.probes.content(WORDS)), WORDS) or prompt + WORDS
    syntax = Syntax(turn_end=plain.partition(WORDS)[2], header=prompt.strip(), prompt_end=prompt)
    shown = _shown_thought(turns)
    if shown is None:
        syntax = _mentioned_thoughts(turns, syntax)
    else:
        before, _, after = shown.partition(THOUGHT)
        between = after.partition(WORDS)[0] if WORDS in after else after.partition(NAMES[0])[0]
        begin = after_prompt(before, prompt).strip()
        if not first_mark(begin) and len(begin) < 3:
            begin = _last_mark(before)
        end = first_mark(between) or between.strip()
        close = between[: between.find(end) + len(end)]
        space = between[len(close) :]
        close += space[: len(space) - len(space.lstrip())]
        syntax = replace(syntax, think_begin=begin, think_end=end, think_close=close)
    if syntax.thinks:
        syntax = replace(syntax, think_open=_ends_open(prompt, syntax))
    begun = after_prompt(plain.partition(WORDS)[0], prompt)
    if syntax.thinks and syntax.think_end in begun:
        begun = begun[begun.rfind(syntax.think_end) + len(syntax.think_end) :]
    header = prompt[: prompt.rfind(syntax.think_begin)] if syntax.think_open else prompt
    return replace(syntax, words_begin=begun.strip(), header=header.strip())


def _shown_thought(turns: Turns) -> str | None:
    source = turns.probes.source
    keys = [key for key in THOUGHT_KEYS if key in source]
    content = turns.probes.content(WORDS)
    for variables in _STAYS:
        if any(name not in source for name in variables):
            continue
        for key in keys:
            shown = turns.turn(assistant(content, **{key: THOUGHT}), THOUGHT, WORDS, **variables)
            if shown is not None and shown.find(THOUGHT) < shown.find(WORDS):
                return shown
    for key in keys:
        shown = turns.calls({KEYS[0]: NUMBERS[0]}, **{key: THOUGHT})
        if shown is not None and THOUGHT in shown and shown.find(THOUGHT) < shown.find(NAMES[0]):
            return shown
    return None


def _mentioned_thoughts(turns: Turns, syntax: Syntax) -> Syntax:
    """Marks that a template only mentions, to cut thoughts out of earlier answers or to open one.

    A mark that ends every turn ends a thought only beside the mark that begins one.
    """
    for begin, end in known.THOUGHTS:
        if end.strip() in syntax.turn_end and begin.strip() not in turns.probes.source:
            continue
        if end.strip() in turns.probes.source or turns.prompt.rstrip().endswith(begin.strip()):
            return replace(syntax, think_begin=begin, think_end=end, think_close=f"\n{end}\n\n")
    return syntax


def _last_mark(text: str) -> str:
    """The last mark of a text."""
    marks = [atom for atom in atoms(text) if first_mark(atom)]
    return marks[-1] if marks else text.rstrip().rpartition("\n")[2]


def _ends_open(prompt: str, syntax: Syntax) -> bool:
    """True if a prompt ends inside a thought."""
    begin = prompt.rfind(syntax.think_begin)
    return begin >= 0 and prompt.find(syntax.think_end, begin + len(syntax.think_begin)) < 0


def ends_open(prompt_end: str, syntax: Syntax) -> bool:
    """True if a prompt with this end is inside a thought."""
    return syntax.thinks and bool(syntax.think_begin) and _ends_open(prompt_end, syntax)


# The syntax against its own template.


def _reads_itself(turns: Turns, syntax: Syntax) -> bool:
    """True if the calls that the template writes are read as those calls."""
    from edgellm.chat.parts import PartParser, parse

    one: list[dict[str, Any]] = [{KEYS[0]: "zq text, with: {signs}", KEYS[1]: 5}]
    many: list[dict[str, Any]] = [{KEYS[0]: "zq", KEYS[1]: True}, {KEYS[2]: [1, "zq"]}]
    trials: list[list[dict[str, Any]]] = [one, many, [{}]] if syntax.several else [one]
    for calls in trials:
        properties = {key: _schema(value) for key, value in calls[0].items()}
        tools = [tool(0, properties), tool(1, {KEYS[2]: {"type": "array"}})]
        shown = turns.calls(*calls, tools=tools)
        if shown is None:
            if calls == [{}]:
                continue
            return False
        text = after_prompt(shown, turns.tool_prompt)
        schemas = {t["function"]["name"]: t["function"]["parameters"] for t in tools}
        thinking = ends_open(turns.tool_prompt, syntax)
        parser = PartParser(syntax, NAMES, thinks=syntax.thinks, thinking=thinking, schemas=schemas)
        read = [(name, json.loads(a or "{}")) for name, a in parse(parser, text).calls]
        if read != list(zip(NAMES, calls, strict=False)) and calls != [{}]:
            return False
    return True


def _schema(value: Any) -> dict[str, str]:
    return {"type": {bool: "boolean", str: "string", list: "array"}.get(type(value), "integer")}
