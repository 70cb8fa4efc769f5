"""The form of an answer, in the fields that OpenAI's API and other servers have for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field

from edgellm.engine.options import GenerateOptions
from edgellm.server.bodies import Body, SamplingFields
from edgellm.server.errors import RequestError

MAX_CHARS = 64 * 1024
# Members that hold a schema, a regular expression or a grammar in the response formats of various servers.
_VALUES = ("schema", "value", "pattern", "regex", "grammar", "definition", "json_schema")


class Structured(Body):
    """vLLM's `structured_outputs`."""

    json_value: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool = False


class FormatFields(SamplingFields):
    """Form of an answer: OpenAI's response_format, the fields of llama.cpp, vLLM and SGLang."""

    response_format: str | dict[str, Any] | None = None
    json_schema: dict[str, Any] | str | None = None
    grammar: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: Structured | None = None

    def constrained(self, options: GenerateOptions) -> GenerateOptions:
        """The options with the form asked for; RequestError or UsageError for several or a bad one."""
        structured = self.structured_outputs or Structured.model_validate({})
        wanted = [
            _of_response_format(self.response_format),
            *({"schema": given} for given in (self.json_schema, self.guided_json, structured.json_value)),
            *({"regex": given} for given in (self.regex, self.guided_regex, structured.regex)),
            *({"grammar": g} for g in (self.grammar, self.ebnf, self.guided_grammar, structured.grammar)),
            *({"grammar": _of_choices(c)} for c in (self.guided_choice, structured.choice) if c is not None),
            *([{"json": True}] if structured.json_object else []),
        ]
        given = [form for form in wanted if any(value not in (None, "") for value in form.values())]
        if len(given) > 1:
            names = " and ".join(key for form in given for key in form)
            raise RequestError(400, f"The answer is asked to follow {names}; it can follow only one of them.")
        for form in given:
            for name, value in form.items():
                if isinstance(value, str) and len(value) > MAX_CHARS:
                    raise RequestError(
                        400,
                        f"{name} is {len(value)} characters long; at most {MAX_CHARS} are accepted.",
                        param=name,
                    )
        return replace(options, **given[0]) if given else options


def _of_choices(choices: list[str]) -> str:
    if not choices:
        raise RequestError(400, "guided_choice lists no texts.", param="guided_choice")
    return "start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)


def _of_response_format(given: str | Mapping[str, Any] | None) -> dict[str, Any]:
    """The option that a response_format sets, by name."""
    if given is None:
        return {}
    if isinstance(given, str):
        given = {"type": given}
    kind = str(given.get("type", "text"))
    value = _value(given)
    if kind == "text":
        return {}
    if kind in ("json_object", "json"):
        return {"json": True} if value is None else {"schema": value}
    if kind == "json_schema":
        if value is None:
            raise RequestError(
                400, "response_format has no json_schema.schema.", param="response_format.json_schema"
            )
        return {"schema": value}
    if kind in ("regex", "grammar"):
        if not isinstance(value, str):
            raise RequestError(
                400, f"response_format of type {kind} has no text of it.", param="response_format"
            )
        return {kind: value}
    raise RequestError(
        400,
        f"response_format is of type {kind[:40]!r}; the types are text, json_object, json_schema, regex and "
        "grammar.",
        param="response_format.type",
    )


def _value(given: Mapping[str, Any]) -> Any:
    for name in _VALUES:
        value = given.get(name)
        if name == "json_schema" and isinstance(value, Mapping):
            value = value.get("schema")
        if value is not None:
            return value
    return None
