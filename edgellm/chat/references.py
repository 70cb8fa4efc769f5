"""References inside a schema, brought to one form: pointers into the `$defs` of its root."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

_TABLES = ("$defs", "definitions", "schemas")


def resolve(schema: Mapping[str, Any], max_depth: int, notes: list[str]) -> dict[str, Any]:
    """A copy in which every `$ref` leads to a definition of the root.

    Found are pointers from the root, definitions beside the reference or above it, anchors, ids and names of
    definitions anywhere. Those that lead nowhere, or to another document, admit anything and are noted.
    """
    return _Resolver(schema, max_depth, notes).run()


class _Resolver:
    def __init__(self, schema: Mapping[str, Any], max_depth: int, notes: list[str]) -> None:
        self._root = schema
        self._max_depth = max_depth
        self._notes = notes
        self._names: dict[int, str] = {}  # of definitions already hoisted, by the identity of their schemas
        self._waiting: list[tuple[str, Mapping[str, Any]]] = []
        self._by_name = dict(_named(schema, max_depth))

    def run(self) -> dict[str, Any]:
        """The whole schema; definitions that nothing refers to are left out."""
        made = self._copy(self._root, "", 0)
        defs: dict[str, Any] = {}
        while self._waiting:
            name, target = self._waiting.pop()
            defs[name] = self._copy(target, f"$defs.{name}", 0)
        return {**made, "$defs": defs} if defs else made

    def _copy(self, value: Any, path: str, depth: int, *, by_name: bool = False) -> Any:
        if depth > self._max_depth * 2 or not isinstance(value, Mapping | list):
            return value
        if isinstance(value, list):
            return [self._copy(item, f"{path}.{n}".lstrip("."), depth + 1) for n, item in enumerate(value)]
        made: dict[str, Any] = {}
        for key, item in value.items():
            if not by_name and key in ("$defs", "definitions") and isinstance(item, Mapping):
                continue  # those that are referred to are hoisted
            if not by_name and key in ("enum", "const", "default", "examples"):
                made[key] = item
                continue
            if not by_name and key == "$ref":
                made |= self._refer(item, path)
                continue
            properties = not by_name and key in ("properties", "patternProperties", "dependentSchemas")
            made[key] = self._copy(item, f"{path}.{key}".lstrip("."), depth + 1, by_name=properties)
        return made

    def _refer(self, given: Any, path: str) -> dict[str, Any]:
        target = self._find(given) if isinstance(given, str) else None
        if target is self._root:
            return {"$ref": "#"}
        if not isinstance(target, Mapping):
            if target is True:
                return {}
            self._notes.append(f"{path}.$ref".lstrip("."))
            return {}
        name = self._names.get(id(target))
        if name is None:
            name = f"d{len(self._names)}"
            self._names[id(target)] = name
            self._waiting.append((name, target))
        return {"$ref": f"#/$defs/{name}"}

    def _find(self, reference: str) -> Any:
        """The schema that a reference means, or None."""
        document, _, fragment = reference.partition("#")
        if not document and not fragment:
            return self._root
        if not document and fragment.startswith("/"):
            found = self._follow(fragment)
            if found is not None:
                return found
        known = self._by_name.get(reference) or self._by_name.get(document or fragment)
        if known is not None:
            return known
        last = unquote(fragment or document).rpartition("/")[2]
        return self._by_name.get(last) if not document or "/" not in document else None

    def _follow(self, pointer: str) -> Any:
        value: Any = self._root
        for part in pointer.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(value, Mapping) and key in value:
                value = value[key]
            elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            else:
                return None
        return value


def _named(schema: Any, max_depth: int) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Schemas by their names in tables of definitions, ids and anchors; the outermost come last."""
    found: list[tuple[str, Mapping[str, Any]]] = []
    level: list[Any] = [schema]
    for _ in range(max_depth):
        below: list[Any] = []
        for value in level:
            if isinstance(value, list):
                below += value
            if not isinstance(value, Mapping):
                continue
            for key in ("$id", "id", "$anchor", "$dynamicAnchor"):
                if isinstance(value.get(key), str):
                    found.append((value[key], value))
            for table in _TABLES:
                if isinstance(value.get(table), Mapping):
                    found += [(str(n), one) for n, one in value[table].items() if isinstance(one, Mapping)]
            below += value.values()
        level = below
        if not level:
            break
    return iter(found[::-1])
