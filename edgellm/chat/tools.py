"""Tools that a model may call: what they are, how each kind of model writes a call, and the grammar of it.

How calls are written is seen from the chat template, which shows models their own earlier calls: Qwen and
other models in the manner of Hermes, Llama 3, Mistral, Gemma, SmolLM. All others, and templates that know
nothing of tools, get the generic form: the tools as part of the system message.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgellm.chat.relax import pruned
from edgellm.chat.schema import grammar_schema
from edgellm.errors import UsageError

MAX_TOOLS = 1024
MAX_CALLS = 8
THINK, END_THINK = "<think>", "</think>"
# Texts around calls and thoughts that some vocabularies have as control tokens.
MARKS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|python_tag|>", THINK, END_THINK)

_NAME = re.compile(r"[a-zA-Z0-9_.:/-]{1,128}")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the caller can run: `parameters` is the JSON schema of its arguments, an object."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The tool as chat templates expect it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """auto: the model decides; required: at least one call, of the tool `name` if that is not None."""

    mode: Literal["auto", "required"] = "auto"
    name: str | None = None
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class Syntax:
    """How calls are written: begin CALL (separator CALL)* end.

    A call is `{"name": NAME, arguments_key: ARGUMENTS}`, or with no arguments_key NAME[ARGS]ARGUMENTS.
    native: the template itself shows the tools and the calls.
    """

    kind: str
    begin: str
    separator: str
    end: str
    arguments_key: str | None = "arguments"
    native: bool = True

    def head(self, name: str) -> str:
        """What comes before the arguments of a call."""
        if self.arguments_key is None:
            return f"{name}[ARGS]"
        return f'{{"name": "{name}", "{self.arguments_key}": '

    @property
    def tail(self) -> str:
        """What comes after the arguments of a call."""
        return "" if self.arguments_key is None else "}"

    def write(self, calls: Sequence[tuple[str, str]]) -> str:
        """Calls, (name, arguments as JSON), as a model would write them."""
        written = [self.head(name) + arguments + self.tail for name, arguments in calls]
        return self.begin + self.separator.join(written) + self.end


_TAGS = ("<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>")


def syntax_of(template: str) -> Syntax:
    """How a model writes calls, from its chat template."""
    native = re.search(r"\btools\b", template) is not None
    if native and "[TOOL_CALLS]" in template:
        if "[ARGS]" in template:
            return Syntax("mistral", "[TOOL_CALLS]", "[TOOL_CALLS]", "", None)
        space = " " if "[TOOL_CALLS] [" in template else ""
        return Syntax("mistral-list", f"[TOOL_CALLS]{space}[", ", ", "]")
    if "<|start_header_id|>" in template:
        return Syntax("llama3", "", "; ", "", "parameters", native)
    if native and "<tool_call>" in template and "<function=" not in template:
        return Syntax("hermes", *_TAGS)
    if "<start_of_turn>" in template:
        return Syntax("gemma", "", "; ", "", "parameters", native=False)
    if "SmolLM" in template and not native:
        return Syntax("smollm", "<tool_call>[", ", ", "]</tool_call>", native=False)
    return Syntax("generic", *_TAGS, native=False)


def read_tools(given: Sequence[object]) -> list[Tool]:
    """Tools as the OpenAI API writes them; UsageError, naming the field, for what is malformed."""
    if len(given) > MAX_TOOLS:
        raise UsageError(f"There are {len(given)} tools; at most {MAX_TOOLS} are accepted.")
    tools: list[Tool] = []
    names: set[str] = set()
    for index, tool in enumerate(given):
        where = f"tools[{index}]"
        if not isinstance(tool, Mapping) or tool.get("type", "function") != "function":
            raise UsageError(f'{where} must be an object with type "function".')
        function = tool.get("function", tool)
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError(
                f"{where} has the name {str(name)[:80]!r}; expected 1 to 128 letters, digits or _.:/-."
            )
        if name in names:
            raise UsageError(f"{where} has the name {name!r}, as another tool has.")
        names.add(name)
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        schema = pruned(parameters) if isinstance(parameters, Mapping) else {"type": "object"}
        tools.append(Tool(name, str(function.get("description") or ""), {"type": "object", **schema}))
    return tools


def call_grammar(
    syntax: Syntax,
    tools: Sequence[Tool],
    choice: ToolChoice,
    controls: Mapping[str, int],
    *,
    thoughts: Literal["none", "may", "open"] = "none",
) -> str:
    """The Lark grammar of an answer that may call tools, arguments valid against their schemas.

    controls: ids of those MARKS that are control tokens of the vocabulary. thoughts: whether the answer may
    begin with <think>, or is already inside. Raises UsageError for an unknown name or a bad schema.
    """
    if choice.name is not None:
        tools = [tool for tool in tools if tool.name == choice.name]
        if not tools:
            raise UsageError(f"tool_choice names {choice.name!r}, and no tool has that name.")
    rules = _thought_rules(thoughts, controls)
    for i, tool in enumerate(tools):
        schema = json.dumps(grammar_schema(tool.parameters), ensure_ascii=False)
        rules.append(f"call_{i}: {_literal(syntax.head(tool.name), controls)} args_{i}")
        rules.append(f"args_{i}: %json {schema}")
    tail = _literal(syntax.tail, controls)
    rules.append(f"call: ({' | '.join(f'call_{i}' for i in range(len(tools)))}) {tail}")
    more = f" ({_literal(syntax.separator, controls)} call){{0,{MAX_CALLS - 1}}}" if choice.parallel else ""
    rules.append(f"calls: call{more} {_literal(syntax.end, controls)}")
    thought = "" if thoughts == "none" else "thought "
    begin = _literal(syntax.begin, controls)
    if choice.mode == "required":
        return "\n".join([f"start: {thought}{begin} calls", *rules])
    if not syntax.begin:
        # An answer that begins as a call does is one.
        tag = controls.get("<|python_tag|>")
        tagged = "" if tag is None else f" | <[{tag}]> calls"
        rules.append(r"FREE: /[^{](.|\n)*/")
        return "\n".join([f"start: {thought}(calls | FREE){tagged}", *rules])
    trigger = syntax.begin.rstrip("\n [")
    rest = _literal(syntax.begin[len(trigger) :], controls)
    if trigger in controls:
        rules.append(r"FREE: /(.|\n)+/")
        return "\n".join([f"start: {thought}FREE? (<[{controls[trigger]}]> {rest} calls)?", *rules])
    pattern = re.escape(trigger).replace("/", "\\/")
    rules.append(rf"FREE: /(.|\n)+/ & ~/(.|\n)*{pattern}(.|\n)*/")
    rules.append(rf"upto[lazy]: /(.|\n)*{pattern}/")
    return "\n".join([f"start: {thought}(upto {rest} calls | FREE?)", *rules])


def thought_grammar(
    schema: Mapping[str, Any], controls: Mapping[str, int], thoughts: Literal["may", "open"]
) -> str:
    """The Lark grammar of JSON after thoughts."""
    text = json.dumps(grammar_schema(schema), ensure_ascii=False)
    return "\n".join(["start: thought json", f"json: %json {text}", *_thought_rules(thoughts, controls)])


def _thought_rules(thoughts: str, controls: Mapping[str, int]) -> list[str]:
    if thoughts == "none":
        return []
    begin = "" if thoughts == "open" else _literal(THINK, controls)
    close = controls.get(END_THINK)
    if close is None:
        rules = [f"thinking: {begin} upto_end", r"upto_end[lazy]: /(.|\n)*<\/think>/"]
    else:
        rules = [rf"thinking: {begin} THOUGHTS? <[{close}]>", r"THOUGHTS: /(.|\n)+/"]
    whole = "thinking LINES?" if thoughts == "open" else "(thinking LINES?)?"
    return [
        f"thought: {whole}",
        *rules,
        r"LINES: /\n{1,2}/",
    ]


def _literal(text: str, controls: Mapping[str, int]) -> str:
    """A text in Lark, control tokens by their ids."""
    if not text:
        return ""
    known = [mark for mark in MARKS if mark in controls]
    parts = re.split(f"({'|'.join(map(re.escape, known))})", text) if known else [text]
    return " ".join(
        f"<[{controls[part]}]>" if part in controls else json.dumps(part) for part in parts if part
    )


def fold_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool], syntax: Syntax, template: str
) -> list[dict[str, Any]]:
    """The messages for a template: tools, calls and results written out if it knows nothing of them."""
    if syntax.native:
        return [_short_ids(message) if "mistral" in syntax.kind else dict(message) for message in messages]
    folded: list[dict[str, Any]] = []
    for message in messages:
        if message.get("role") in ("tool", "function"):
            result = f"<tool_response>\n{_text(message.get('content'))}\n</tool_response>"
            if folded and folded[-1].get("role") == "user" and "<tool_response>" in folded[-1]["content"]:
                folded[-1]["content"] += "\n" + result
            else:
                folded.append({"role": "user", "content": result})
        elif message.get("tool_calls"):
            written = syntax.write([_call(call) for call in message["tool_calls"]])
            said = _text(message.get("content"))
            folded.append({"role": "assistant", "content": f"{said}\n{written}" if said else written})
        else:
            folded.append(dict(message))
    if tools:
        _add_instructions(folded, _instructions(tools, syntax), template)
    return folded


def _instructions(tools: Sequence[Tool], syntax: Syntax) -> str:
    listed = "\n".join(json.dumps(tool.as_dict()["function"], ensure_ascii=False) for tool in tools)
    form = syntax.write([("NAME", "{...}")])
    return (
        "You can call these functions, each given with the JSON schema of its arguments:\n"
        f"<tools>\n{listed}\n</tools>\n"
        f"To call one, answer in exactly this form, with its name and its arguments:\n{form}\n"
        "Call a function only if it helps to answer; otherwise answer in plain words."
    )


def _add_instructions(messages: list[dict[str, Any]], text: str, template: str) -> None:
    first = messages[0] if messages else {}
    # Some templates refuse system messages, and say so.
    takes_system = "system role" not in template.lower()
    if first.get("role") in (("system", "developer") if takes_system else ("user",)):
        messages[0] = {**first, "content": f"{_text(first.get('content'))}\n\n{text}"}
    else:
        messages.insert(0, {"role": "system" if takes_system else "user", "content": text})


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part.get("text", "")) for part in parts if isinstance(part, Mapping))


def _call(call: object) -> tuple[str, str]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UsageError("A message has a tool call without a function name.")
    arguments = function.get("arguments") or {}
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return function["name"], text


def _short_ids(message: Mapping[str, Any]) -> dict[str, Any]:
    """Mistral's templates refuse ids of calls that are not nine letters and digits."""

    def short(identity: object) -> str:
        text = str(identity)
        return text if re.fullmatch("[a-zA-Z0-9]{9}", text) else hashlib.sha256(text.encode()).hexdigest()[:9]

    result = dict(message)
    if "tool_call_id" in message:
        result["tool_call_id"] = short(message["tool_call_id"])
    if isinstance(message.get("tool_calls"), list):
        result["tool_calls"] = [
            {**call, "id": short(call.get("id"))} if isinstance(call, Mapping) else call
            for call in message["tool_calls"]
        ]
    return result
