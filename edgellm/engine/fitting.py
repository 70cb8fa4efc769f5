"""Schemas of tools brought to what grammars can express: by their form first, then by trying each part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edgellm.chat.relax import COSTLY, Relaxed, relax_arguments
from edgellm.engine.trial import TOO_COSTLY

# Trials of one schema; what is left after so many is not enforced.
MAX_TRIALS = 100
_ONE = ("items", "additionalProperties")
_SEVERAL = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "patternProperties", "$defs")


def fit(schema: object, failure: Callable[[object], str | None]) -> Relaxed:
    """The relaxed schema; where the grammar's engine still refuses a part, that part admits anything.

    failure: the reason why a schema cannot be used, or None.
    """
    relaxed = relax_arguments(schema)
    made = relaxed.schema
    reason = failure(made)
    if reason == TOO_COSTLY:
        made = _without_costly(made, "", relaxed.notes)
        reason = failure(made)
    if reason == TOO_COSTLY:
        return Relaxed({"type": "object"}, ["schema"])
    if reason is None:
        return Relaxed(made, relaxed.notes)
    fitter = _Fitter(failure, made.get("$defs", {}), relaxed.notes)
    fitted = fitter.fit(made, "")
    return Relaxed(fitted if isinstance(fitted, dict) else {"type": "object"}, relaxed.notes)


class _Fitter:
    def __init__(
        self, failure: Callable[[object], str | None], defs: Mapping[str, Any], notes: list[str]
    ) -> None:
        self._failure = failure
        self._defs = dict(defs)
        self._notes = notes
        self._n_trials = 0

    def fit(self, schema: dict[str, Any], path: str) -> Any:
        """A schema that failed, with the parts that fail by themselves replaced; True if all of it fails."""
        made = dict(schema)
        for keyword, key, part in _parts(schema):
            where = f"{path}.{keyword}{'' if key is None else f'.{key}'}".lstrip(".")
            if not self._fails(part):
                continue
            fitted = self.fit(part, where) if isinstance(part, dict) else self._give_up(where)
            if key is None:
                made[keyword] = fitted
            else:
                made[keyword] = _with(made[keyword], key, fitted)
            if keyword == "$defs":
                self._defs[str(key)] = fitted
        if not self._fails(made):
            return made
        for keyword in (*COSTLY, "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "format"):
            if keyword in made:
                del made[keyword]
                self._notes.append(f"{path}.{keyword}".lstrip("."))
                if not self._fails(made):
                    return made
        return self._give_up(path)

    def _give_up(self, path: str) -> bool:
        self._notes.append(path or "schema")
        return True

    def _fails(self, part: Any) -> bool:
        if part is True:
            return False
        self._n_trials += 1
        if self._n_trials > MAX_TRIALS:
            return True
        inside = (
            {key: value for key, value in part.items() if key != "$defs"} if isinstance(part, dict) else part
        )
        reason = self._failure(
            {
                "type": "object",
                "properties": {"part": inside},
                "required": ["part"],
                "$defs": self._defs,
                "x-guidance": {"coerce_one_of": True},
            }
        )
        return reason is not None


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(keyword, key in its table or list, schema) of the schemas directly inside; definitions first."""
    for keyword in reversed(_NAMED):
        for name, part in schema.get(keyword, {}).items():
            yield keyword, name, part
    for keyword in _SEVERAL:
        for number, part in enumerate(schema.get(keyword, ())):
            yield keyword, number, part
    for keyword in _ONE:
        if isinstance(schema.get(keyword), Mapping):
            yield keyword, None, schema[keyword]


def _with(table: Any, key: Any, value: Any) -> Any:
    copy = list(table) if isinstance(table, list) else dict(table)
    copy[key] = value
    return copy


def _without_costly(value: Any, path: str, notes: list[str]) -> Any:
    """The schema without keywords that may take long to compile."""
    if isinstance(value, list):
        return [_without_costly(item, f"{path}.{n}", notes) for n, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    notes += [f"{path}.{keyword}".lstrip(".") for keyword in COSTLY if keyword in value]
    return {
        key: item if key in ("enum", "const") else _without_costly(item, f"{path}.{key}", notes)
        for key, item in value.items()
        if key not in COSTLY
    }
