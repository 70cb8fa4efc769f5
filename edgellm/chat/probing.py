"""Renders small conversations of a template to see how it writes them, and learns which forms it takes."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgellm.chat.budget import budget_for
from edgellm.chat.messages import THOUGHT_KEYS, Forms, named_id
from edgellm.chat.syntax import BOS, EOS
from edgellm.errors import TemplateError

if TYPE_CHECKING:
    from edgellm.chat.jinja import Template

NAMES = ("zqfirst", "zqsecond")
IDS = ("zqcallid1", "zqcallid2")  # nine letters and digits: Mistral's templates take no others
NAMED_IDS = tuple(named_id(name, i) for i, name in enumerate(NAMES))
_LOOPS_OVER_CONTENT = re.compile(r"for\s+\w+\s+in\s+[^%}]*content")


def call(number: int, arguments: Any, ids: Sequence[str] = IDS) -> dict[str, Any]:
    """A call of the first or second tool."""
    function = {"name": NAMES[number], "arguments": arguments}
    return {"id": ids[number], "type": "function", "function": function}


def result(number: int, text: str = "zqresult", ids: Sequence[str] = IDS) -> dict[str, Any]:
    """The message with the result of a call."""
    return {"role": "tool", "tool_call_id": ids[number], "name": NAMES[number], "content": text}


def user(text: Any = "zqask") -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(content: Any = "", **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def tool(number: int, properties: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": dict(properties), "required": list(properties)}
    function = {"name": NAMES[number], "description": "A function.", "parameters": parameters}
    return {"type": "function", "function": function}


class Prober:
    """One template and its renderings of probes; `bos` and `eos` are the texts of those tokens."""

    def __init__(self, source: str, bos: str = BOS, eos: str = EOS) -> None:
        from edgellm.chat.sandbox import sandbox

        self.source = source
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self._rendered: dict[str, str | None] = {}
        self.template: Template | None = None
        with contextlib.suppress(TemplateError):
            self.template = sandbox().load(source)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        prompt: bool = False,
        **variables: Any,
    ) -> str | None:
        """The rendering, or None if the template is malformed or refuses these messages."""
        given = {**variables, "messages": list(messages), "tools": tools, "add_generation_prompt": prompt}
        key = repr(given)
        if key not in self._rendered:
            self._rendered[key] = self._render(given)
        return self._rendered[key]

    def _render(self, given: Mapping[str, Any]) -> str | None:
        from edgellm.chat.sandbox import sandbox

        if self.template is None:
            return None
        values = {"documents": None, **self._tokens, **given}
        try:
            return sandbox().render(self.template, values, budget_for(200, 4000))
        except TemplateError:
            return None

    def shows(self, messages: Sequence[Mapping[str, Any]], *texts: str, **options: Any) -> bool:
        """True if a rendering of the messages has all the texts."""
        shown = self.render(messages, **options)
        return shown is not None and all(text in shown for text in texts)

    @functools.cached_property
    def forms(self) -> Forms:
        """The forms of messages that the template takes."""
        return Forms(
            self.content_form,
            self.arguments_form,
            self.thoughts_key,
            self.single_calls,
            self.no_content,
            self.ids is not IDS,
        )

    @functools.cached_property
    def ids(self) -> Sequence[str]:
        """Ids of calls: those that hold names, if the template writes a call's id and not its name."""
        shown = self.calls("{}", ids=IDS) if "id" in self.source else None
        turn = "" if shown is None else _turns(shown)
        if IDS[0] not in turn or NAMES[0] in turn[: turn.rfind("zqresult")]:
            return IDS
        return NAMED_IDS

    @functools.cached_property
    def content_form(self) -> Any:
        """Form of content: text, parts or either; templates without a loop over it take text."""
        if not _LOOPS_OVER_CONTENT.search(self.source):
            return "text"
        one = self.render([user([{"type": "text", "text": "zqpart"}])])
        parts = one is not None and "zqpart" in one and not re.search("['\"]zqpart['\"]", one)
        if not parts:
            return "text"
        return "either" if self.shows([user("zqask")], "zqask") else "parts"

    @functools.cached_property
    def thoughts_key(self) -> str:
        """The name of an assistant's thoughts in the template's source; the usual one if it has none."""
        named = [key for key in THOUGHT_KEYS if re.search(rf"""[.'"]{key}\b""", self.source)]
        return named[0] if named else THOUGHT_KEYS[0]

    @functools.cached_property
    def takes_system(self) -> bool:
        """True if a system message reaches the prompt."""
        return self.shows(
            [{"role": "system", "content": self.content("zqsystem")}, user(self.content("zqask"))],
            "zqsystem",
        )

    @functools.cached_property
    def shows_tools(self) -> bool:
        """True if the tools' names and parameters reach the prompt."""
        tools = [tool(0, {"zqkey": {"type": "string"}})]
        return self.shows([user(self.content("zqask"))], NAMES[0], "zqkey", tools=tools, prompt=True)

    def content(self, text: str) -> Any:
        """A text as the template takes content."""
        return [{"type": "text", "text": text}] if self.content_form == "parts" else text

    def calls(self, *arguments: Any, empty: Any = "", ids: Sequence[str] | None = None) -> str | None:
        """The rendering of a question and an answer of calls with these arguments."""
        ids = ids or self.ids
        calls = [call(i, given, ids) for i, given in enumerate(arguments)]
        tools = [tool(i, {"zqkey": {"type": "string"}}) for i in (0, 1)]
        content = self.content(empty) if empty is not None else None
        turn = assistant(content, tool_calls=calls)
        ask = user(self.content("zqask"))
        shown = self.render([ask, turn, *(result(i, ids=ids) for i in range(len(calls)))], tools)
        return shown if shown is not None else self.render([ask, turn], tools)

    @functools.cached_property
    def arguments_form(self) -> Any:
        """The form of a call's arguments: an object unless the template only takes text."""
        return self._call_form[0]

    @functools.cached_property
    def no_content(self) -> bool:
        """True if the template shows calls only of messages without content."""
        return self._call_form[1]

    @functools.cached_property
    def _call_form(self) -> tuple[str, bool]:
        text = '{"zqkey": "zqvalue"}'
        for empty in ("", None):
            shown = self.calls({"zqkey": "zqvalue"}, empty=empty)
            if shown is not None and "zqkey" in _turns(shown) and "{'zqkey'" not in shown:
                return "object", empty is None
            as_text = self.calls(text, empty=empty)
            if as_text is not None and text in (turn := _turns(as_text)) and f"'{text}'" not in turn:
                return "text", empty is None
            if shown is not None and "zqkey" in _turns(shown):
                return "object", empty is None
        return "object", False

    @functools.cached_property
    def single_calls(self) -> bool:
        """True if a message with two calls is refused, or shown with one of them."""
        given = "{}" if self.arguments_form == "text" else {"zqkey": "zqvalue"}
        empty = None if self.no_content else ""
        one, two = self.calls(given, empty=empty), self.calls(given, given, empty=empty)
        return one is not None and NAMES[0] in one and (two is None or NAMES[1] not in _turns(two))


def _turns(shown: str) -> str:
    """The rendering after the question, where tools are no longer described."""
    return shown[max(0, shown.rfind("zqask")) :]


@functools.lru_cache(maxsize=64)
def prober(source: str, bos: str = BOS, eos: str = EOS) -> Prober:
    """The prober of a template, made once."""
    return Prober(source, bos, eos)
