"""Syntaxes of chat templates, kept on disk: a model that was loaded before is not learned again.

A file holds the template that it is of, the texts of its first and last token, and the version of the
learning code. Whatever is wrong with it (missing, of another template, damaged, not writable), the template
is learned as if there were none. A load that finds its file imports none of the code that learns.
"""

from __future__ import annotations

import binascii
import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from edgellm.chat.syntax import Arguments, Piece, Slot, Syntax

MAX_FILES = 256
MAX_BYTES = 512 * 1024
_PIECES = ("first", "later", "head", "closing")
_PAIRS = ("quotes", "wrap", "words")
T = TypeVar("T")


@functools.lru_cache(maxsize=64)
def syntax(source: str, bos: str, eos: str) -> Syntax:
    """`learning.learn`."""

    def learn() -> Syntax:
        from edgellm.chat.learning import learn

        return learn(source, bos, eos)

    return _kept("syntax", (source, bos, eos), learn, _plain_syntax, _read_syntax)


@functools.lru_cache(maxsize=64)
def thoughts(source: str, bos: str, eos: str) -> Syntax:
    """`learning.learn_thoughts`: the syntax without calls, which takes a few renderings."""

    def learn() -> Syntax:
        from edgellm.chat.learning import learn_thoughts

        return learn_thoughts(source, bos, eos)

    return _kept("thoughts", (source, bos, eos), learn, _plain_syntax, _read_syntax)


@functools.lru_cache(maxsize=64)
def levels(source: str, bos: str, eos: str) -> Mapping[str, Mapping[str, Any]]:
    """`thinking.levels`."""

    def learn() -> Mapping[str, Mapping[str, Any]]:
        from edgellm.chat.thinking import levels

        return levels(source, bos, eos)

    return _kept("levels", (source, bos, eos), learn, _plain_levels, _read_levels)


def _kept(
    kind: str,
    key: tuple[str, str, str],
    learn: Callable[[], T],
    write: Callable[[T], Any],
    read: Callable[[Any], T],
) -> T:
    """The thing learned of a template, from its file or, if there is none, into it."""
    of = [_code(), *key]
    whole = json.dumps(of, ensure_ascii=False).encode("utf-8", "surrogatepass")
    path = _folder() / f"{kind}-{len(whole):x}-{binascii.crc32(whole):08x}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        if path.stat().st_size <= MAX_BYTES:
            kept = json.loads(path.read_bytes().decode("utf-8", "surrogatepass"))
            if kept["of"] == of:
                return read(kept["found"])
    found = learn()
    with contextlib.suppress(OSError, ValueError, TypeError):
        content = json.dumps({"found": write(found), "of": of}, ensure_ascii=False)
        _write(path, content.encode("utf-8", "surrogatepass"))
    return found


def _folder() -> Path:
    from edgellm.store.paths import home

    return home() / "templates"


@functools.cache
def _code() -> str:
    """Sizes and times of the files that learn, so that another version of them learns anew."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return ";".join(f"{path.name} {(s := path.stat()).st_size} {s.st_mtime_ns}" for path in files)


def _write(path: Path, content: bytes) -> None:
    """Put a file into its folder at once, and take the oldest away if there are many."""
    if len(content) > MAX_BYTES:
        return
    from edgellm.system.files import PrivateFolder

    with PrivateFolder(path.parent) as folder:
        folder.write(path.name, content)
        names = sorted(folder.names(), key=lambda name: folder.status(name).st_mtime_ns)
        for old in names[: max(0, len(names) - MAX_FILES)]:
            with contextlib.suppress(FileNotFoundError):
                folder.unlink(old)


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
