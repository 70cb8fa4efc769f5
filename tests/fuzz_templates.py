"""Mutate and generate chat templates: each renders within its budget, or is refused with an error of ours.

    python -m tests.fuzz_templates --seconds 300

It starts from known templates, hostile ones of the tests, and real ones of the shared folder if that exists.
"""

from __future__ import annotations

import contextlib
import random
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

import edgellm.chat
from edgellm.chat.budget import budget_for
from edgellm.chat.known import ENTRIES
from edgellm.chat.learning import learn
from edgellm.chat.sandbox import METHODS, sandbox
from edgellm.chat.template import CHATML, count_values, strings_of
from edgellm.chat.thinking import levels
from edgellm.errors import TemplateError
from tests.support.damage import damage_json
from tests.support.fuzzing import SANITIZED, Target, main
from tests.support.paths import shared
from tests.unit.chat.test_sandbox import DENIALS, ESCAPES, ORDINARY

STEP_S = 4e-6
"""CPU time that a step may take; one is made for a microsecond."""
COMPILE_S = 4.0
"""CPU time of a template of the largest size before its first step."""
LEARN_S = 15.0
MAX_GROWTH = 512 << 20
_PIECES = re.compile(r"(\{%.{0,1000}?%\}|\{\{.{0,1000}?\}\})", re.DOTALL)
_WORDS = re.compile(r"[A-Za-z_]\w*|\d+|'[^'\n]*'|\"[^\"\n]*\"|[^\s\w]")
_NAMES = ("messages", "message", "m", "tools", "ns", "x", "bos_token", "nothing", "namespace")
_REPEATED = ("'x'", "'a b '", "'<'", "[1]")
_PATH = repr("0." * 500 + "0")
_OPERATORS = ("+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">=", "in", "not in", "and", "or")
_DEFINITIONS = (
    "{% set ns = namespace(a=messages|length) %}{% set m = messages[0] %}{% set x = m.content %}"
    "{% set message = m %}{% macro f(x=1) %}{{ x }}{% endmacro %}"
)
_WORDS_OF_BODIES = ("<|im_start|>", "</think>", "<tool_call>", "assistant", "\n", "{ ", "é", "\x00", "\ud800")

Result = TypeVar("Result")


def prepare(folder: Path) -> list[str]:
    """Sources to start from."""
    sources = [CHATML, *DENIALS.values(), *ESCAPES.values(), *ORDINARY.values()]
    sources += [entry.template for entry in ENTRIES]
    with contextlib.suppress(pytest.skip.Exception):
        sources += [path.read_bytes().decode() for path in sorted(shared("templates").glob("*.jinja"))]
    learn(CHATML)  # what is imported once is no growth of a case
    return sources


class Writer:
    """Writes random Jinja: all statements, and every filter, test and method that the sandbox has."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._filters = sorted(sandbox().filters)
        self._tests = sorted(name for name in sandbox().tests if name.isidentifier() and name != "in")
        self._methods = sorted({name for methods in METHODS.values() for name in methods})

    def template(self) -> str:
        """A template of a few statements."""
        statements = [
            self.statement(self._rng.choice((1, 1, 2, 3))) for _ in range(self._rng.randrange(1, 5))
        ]
        return self._rng.choice((_DEFINITIONS, _DEFINITIONS, "")) + "".join(statements)

    def leaf(self) -> str:
        """A name or a literal."""
        choose = self._rng.choice
        match self._rng.randrange(8):
            case 0 | 1:
                return choose(_NAMES)
            case 2:
                return choose(
                    ("0", "1", "(-1)", "2", "3", "17", "100", "65535", "(10**6)", "(10**9)", "1.5", "(9**99)")
                )
            case 3:
                return repr(
                    choose(("", "a", "ab ", "x\n", "role", "content", "%s", "%9999d", "{0}", "{:99}", "0.0"))
                )
            case 4:
                return f"({choose(_REPEATED)} * {choose((3, 1000, 50_000, 900_000))})"
            case 5:
                return f"range({choose((0, 3, 1000, 60_000, '10**9', 'messages|length'))})"
            case 6:
                return choose(
                    ("none", "true", "false", "[]", "{}", "()", "messages[0]", "messages[-1].content")
                )
            case _:
                return choose(
                    ("messages[0].role", "tools[0]", "m.content", "m.tool_calls", "loop.index", "x[0]")
                )

    def expression(self, depth: int) -> str:
        """An expression with at most so many levels."""
        if depth <= 0 or self._rng.random() < 0.1:
            return self.leaf()
        choose, inner = self._rng.choice, self.expression
        one = inner(depth - 1)
        match self._rng.randrange(12):
            case 0 | 1:
                return f"({one} {choose(_OPERATORS)} {inner(depth - 1)})"
            case 2 | 3 | 4:
                return f"({one}|{choose(self._filters)}{self._arguments(depth)})"
            case 5 | 6:
                return f"{one}.{choose(self._methods)}{self._arguments(depth) or '()'}"
            case 7:
                return f"({one} is {choose(('', 'not '))}{choose(self._tests)}{self._arguments(depth)})"
            case 8:
                start, stop = choose(("", inner(0), "-1")), choose(("", inner(0)))
                return f"{one}[{start}:{stop}:{choose(('', '-1', '2'))}]"
            case 9:
                return choose((f"[{one}, {inner(0)}]", f"{{{inner(0)}: {one}}}", f"({one}, {one})"))
            case 10:
                return f"({one} if {inner(depth - 1)} else {inner(depth - 1)})"
            case _:
                return f"{choose(('dict', 'namespace', 'f', 'range', 'joiner', 'cycler', 'loop'))}({one})"

    def _arguments(self, depth: int) -> str:
        match self._rng.randrange(6):
            case 0 | 1 | 2:
                return ""
            case 3:
                return f"(attribute={self._rng.choice((repr('role'), _PATH, self.leaf()))})"
            case 4:
                return f"({self.expression(depth - 1)})"
            case _:
                return f"({self.leaf()}, {self.expression(depth - 1)})"

    def statement(self, depth: int) -> str:
        """A statement, or an output, with at most so many levels."""
        if depth <= 0:
            return self._rng.choice((f"{{{{ {self.expression(2)} }}}}", self._rng.choice(_WORDS_OF_BODIES)))
        one, body = self.expression(2), self.statement(depth - 1)
        match self._rng.randrange(12):
            case 0 | 1:
                return f"{{{{ {self.expression(3)} }}}}{body}"
            case 2 | 3:
                kind = self._rng.choice(("", "", f" if {self.expression(1)}", " recursive"))
                ahead = self._rng.choice(("", "{% break %}", "{% continue %}", "{{ loop(x) }}"))
                return f"{{% for x in {one}{kind} %}}{body}{ahead}{{% endfor %}}"
            case 4:
                return f"{{% for m in messages %}}{body}{{% else %}}{self.statement(0)}{{% endfor %}}"
            case 5:
                return f"{{% if {one} %}}{body}{{% elif {self.leaf()} %}}{{% else %}}{body}{{% endif %}}"
            case 6:
                return f"{{% set ns = namespace(a={one}) %}}{{% set ns.a = {self.expression(2)} %}}{body}"
            case 7:
                return f"{{% set x %}}{body}{{% endset %}}{self.statement(depth - 1)}"
            case 8:
                return f"{{% macro f(x=1) %}}{body}{{% endmacro %}}{{{{ f({one}) }}}}{self.statement(0)}"
            case 9:
                macro = "{% macro f() %}{{ caller(1) }}{% endmacro %}"
                return f"{macro}{{% call(x) f() %}}{body}{{% endcall %}}"
            case 10:
                return f"{{% filter {self._rng.choice(self._filters)} %}}{body}{{% endfilter %}}"
            case _:
                return f"{{% set x = {one} %}}{body * self._rng.choice((1, 2, 30))}"


def mutate(source: str, others: list[str], rng: random.Random) -> str:
    """A template with pieces or words dropped, doubled, exchanged, or taken from others."""
    writer = Writer(rng)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        pieces = _PIECES.split(source)
        at, other = rng.randrange(len(pieces)), rng.randrange(len(pieces))
        match rng.randrange(9):
            case 0:
                del pieces[at]
            case 1:
                pieces[at] *= rng.choice((2, 2, 30, 1000))
            case 2:
                pieces[at], pieces[other] = pieces[other], pieces[at]
            case 3:
                pieces[at] = rng.choice(_PIECES.split(rng.choice(others)))
            case 4:
                pieces.insert(at, writer.statement(2))
            case 5:
                pieces[at:at] = pieces[min(at, other) : max(at, other)]
            case _:
                pieces[at] = _change_word(pieces[at], writer, rng)
        source = "".join(pieces)[:80_000]
    return source


def _change_word(piece: str, writer: Writer, rng: random.Random) -> str:
    words = list(_WORDS.finditer(piece))
    if not words:
        return piece + rng.choice(_WORDS_OF_BODIES)
    word = rng.choice(words)
    new = rng.choice(("", writer.leaf(), writer.expression(2), word.group() * 2, rng.choice(words).group()))
    return piece[: word.start()] + new + piece[word.end() :]


def conversation(rng: random.Random) -> tuple[list[Any], list[Any] | None, dict[str, Any]]:
    """Messages, tools and variables of templates."""

    def text() -> str:
        return rng.choice(
            ("", "hi", "<b> é\n", "{{ 1 }}", "a b " * 300, "x" * rng.choice((10, 3000, 60_000)))
        )

    def message() -> dict[str, Any]:
        made: dict[str, Any] = {
            "role": rng.choice(("user", "user", "assistant", "system", "tool")),
            "content": text(),
        }
        if rng.random() < 0.2:
            made["content"] = [{"type": "text", "text": text()} for _ in range(rng.randrange(4))]
        if made["role"] == "assistant" and rng.random() < 0.5:
            arguments: Any = {"a": rng.choice((1, text(), None, [text()], {"b": 1.5}))}
            function = {"name": "f", "arguments": arguments}
            made["tool_calls"] = [{"id": "1", "type": "function", "function": function}] * rng.randrange(1, 4)
        if rng.random() < 0.2:
            made[rng.choice(("reasoning_content", "thinking", "name", "tool_call_id"))] = text()
        return made

    messages: Any = [message() for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 8, 60)))]
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "description": text()}},
        "required": ["a"],
    }
    function = {"name": "f", "description": text(), "parameters": schema}
    tools: Any = [{"type": "function", "function": function}] * rng.choice((0, 1, 1, 3, 40))
    if rng.random() < 0.15:
        messages, tools = damage_json(messages, rng), damage_json(tools, rng)
        messages = messages if isinstance(messages, list) else [messages]
        tools = tools if isinstance(tools, list) else [tools]
    variables = {
        name: rng.choice((True, False, None, 1, "high"))
        for name in ("enable_thinking", "a")
        if rng.random() < 0.5
    }
    return messages, tools, variables


def use(originals: list[str], folder: Path, rng: random.Random) -> str:
    """Render a template, learn its syntax, and read an answer with it."""
    if rng.random() < 0.5:
        source = Writer(rng).template()
    else:
        source = mutate(rng.choice(originals), originals, rng)
    (folder / "template.jinja").write_text(source, encoding="utf-8", errors="surrogatepass")
    messages, tools, variables = conversation(rng)
    steps = budget_for(
        count_values(messages) + count_values(tools), sum(map(len, strings_of(messages) + strings_of(tools)))
    ).steps
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text, refusal = "", None
    try:
        text = bounded(
            lambda: edgellm.chat.render(source, messages, tools, **variables), COMPILE_S + steps * STEP_S
        )
    except TemplateError as error:
        refusal = error
    syntax = bounded(lambda: learn(source), LEARN_S)
    bounded(lambda: levels(source, "<BOS>", "<EOS>"), LEARN_S)
    answer = rng.choice(
        (text[-3000:], source[:3000], syntax.think_begin + "a" + syntax.think_close + "b", "f(1)")
    )
    bounded(lambda: edgellm.chat.parse(source, answer, None, text[-200:]), LEARN_S)
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert SANITIZED or growth < MAX_GROWTH, f"{growth >> 20} MiB more"
    if refusal is not None:
        raise refusal
    return "rendered"


def bounded(call: Callable[[], Result], limit_s: float) -> Result:
    """The result of a call; fails if it takes more CPU time than limit_s, whether it ends well or not."""
    start = time.thread_time()
    try:
        return call()
    finally:
        taken = time.thread_time() - start
        assert taken < limit_s * (5 if SANITIZED else 1), f"{taken:.1f} s of CPU, more than {limit_s:.1f}"


TARGET = Target("tests.fuzz_templates", prepare, use)

if __name__ == "__main__":
    sys.exit(main(TARGET, __doc__))
