"""Levels and budgets of thinking, in the forms that clients of all APIs send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgellm.chat.template import ChatTemplate
from edgellm.engine.options import GenerateOptions
from edgellm.server.errors import RequestError

# Levels of other APIs, and the nearest one that templates know.
_LEVELS = {
    "none": "off",
    "off": "off",
    "on": "on",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True, slots=True)
class Thinking:
    """A request's level of thinking and its budget in tokens, with the fields that set them."""

    level: str | None = None
    field: str = ""
    budget: int | None = None
    budget_field: str = ""

    def apply(
        self, template: ChatTemplate, options: GenerateOptions, *, tools: bool
    ) -> tuple[Mapping[str, Any], GenerateOptions, tuple[str, ...]]:
        """Template variables, options with the budget, and the fields that this template cannot honour."""
        variables: Mapping[str, Any] = {}
        ignored = []
        if self.level is not None:
            found = template.thinking(tools=tools).get(self.level)
            if found is None:
                ignored.append(self.field)
            variables = found or {}
        if self.budget is not None:
            syntax = template.syntax(tools=True) if tools else template.thoughts()
            if syntax.limits_thoughts:
                options = replace(options, think_budget=self.budget)
            else:
                ignored.append(self.budget_field)
        return variables, options, tuple(ignored)


def read_level(given: str | bool, field: str) -> str:
    """The level that a value of a request means; RequestError if it is none."""
    if isinstance(given, bool):
        return "on" if given else "off"
    level = _LEVELS.get(given.lower())
    if level is None:
        raise RequestError(
            400, f"{field} is {given[:40]!r}; it must be one of {', '.join(EFFORTS)}.", param=field
        )
    return level
