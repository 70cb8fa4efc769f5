"""What was learned of chat templates, kept on disk: a model that was loaded before is not learned again.

A file belongs to a template, the texts of its first and last token, and the learning code. Whatever is wrong
with one (missing, damaged, not writable), the template is learned as if there were none.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from edgellm.chat.syntax import Arguments, Piece, Slot, Syntax

MAX_FILES = 256
MAX_BYTES = 64 * 1024
_PIECES = ("first", "later", "head", "closing")
_PAIRS = ("quotes", "wrap", "words")
T = TypeVar("T")


@functools.lru_cache(maxsize=64)
def syntax(source: str, bos: str, eos: str) -> Syntax:
    """`learning.learn`."""
    from edgellm.chat.learning import learn

    return _kept("syntax", (source, bos, eos), learn, _plain_syntax, _read_syntax)


@functools.lru_cache(maxsize=64)
def thoughts(source: str, bos: str, eos: str) -> Syntax:
    """`learning.learn_thoughts`: the syntax without calls, which takes a few renderings."""
    from edgellm.chat.learning import learn_thoughts

    return _kept("thoughts", (source, bos, eos), learn_thoughts, _plain_syntax, _read_syntax)


@functools.lru_cache(maxsize=64)
def levels(source: str, bos: str, eos: str) -> Mapping[str, Mapping[str, Any]]:
    """`thinking.levels`."""
    from edgellm.chat.thinking import levels as learn

    return _kept("levels", (source, bos, eos), learn, _plain_levels, _read_levels)


def _kept(
    kind: str,
    key: tuple[str, str, str],
    learn: Callable[[str, str, str], T],
    write: Callable[[T], Any],
    read: Callable[[Any], T],
) -> T:
    """The thing learned of a template, from its file or, if there is none, into it."""
    path = _folder() / f"{kind}-{_name(key)}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        if path.stat().st_size <= MAX_BYTES:
            return read(json.loads(path.read_bytes()))
    found = learn(*key)
    with contextlib.suppress(OSError, ValueError, TypeError):
        _write(path, json.dumps(write(found)).encode())
    return found


def _folder() -> Path:
    from edgellm.store.paths import home

    return home() / "templates"


@functools.cache
def _code() -> str:
    """Sizes and times of the files that learn, so that another version of them learns anew."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return ";".join(f"{path.name} {(s := path.stat()).st_size} {s.st_mtime_ns}" for path in files)


def _name(key: tuple[str, str, str]) -> str:
    text = json.dumps([_code(), *key])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _write(path: Path, content: bytes) -> None:
    """Put a file into its folder at once, and take the oldest away if there are many."""
    if len(content) > MAX_BYTES:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    files = sorted(path.parent.iterdir(), key=lambda file: file.stat().st_mtime_ns)
    for old in files[: max(0, len(files) - MAX_FILES)]:
        old.unlink(missing_ok=True)


# Forms in JSON.


def _plain_syntax(found: Syntax) -> dict[str, Any]:
    plain = dataclasses.asdict(found)
    for name in _PIECES:
        plain[name] = [[p.value] if isinstance(p, Slot) else p for p in getattr(found, name)]
    return plain


def _read_syntax(plain: Any) -> Syntax:
    """The syntax of a file; raises if a field is missing, unknown or of another type."""
    given = dict(plain)
    given["arguments"] = _typed(Arguments, {**plain["arguments"], **_tuples(plain["arguments"])})
    for name in _PIECES:
        if not isinstance(plain[name], list):
            raise TypeError(name)
        given[name] = tuple(_piece(piece) for piece in plain[name])
    return _typed(Syntax, given)


def _tuples(plain: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    found = {name: tuple(plain[name]) for name in _PAIRS}
    for name, pair in found.items():
        if len(pair) != (3 if name == "words" else 2) or not all(isinstance(text, str) for text in pair):
            raise ValueError(name)
    return found


def _piece(plain: Any) -> Piece:
    return plain if isinstance(plain, str) else Slot(plain[0])


def _typed(kind: type[T], given: Mapping[str, Any]) -> T:
    """An object of a class of this module's forms, whose fields have the types of its defaults."""
    usual = kind()
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if names != given.keys():
        raise ValueError("fields")
    for name in names:
        default = getattr(usual, name)
        if not isinstance(given[name], str if default is None else type(default)) and given[name] != default:
            raise TypeError(name)
    return kind(**given)


def _plain_levels(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {level: dict(variables) for level, variables in found.items()}


def _read_levels(plain: Any) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(plain, dict) or not all(isinstance(variables, dict) for variables in plain.values()):
        raise ValueError("levels")
    return MappingProxyType(plain)
