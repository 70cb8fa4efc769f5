"""The C library, called through ctypes."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.support.paths import ROOT

OK, BAD_ARGUMENT, TOO_SMALL, FILE, MODEL, NO_MEMORY, CONTEXT_FULL, INTERNAL = range(8)


class Options(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("n_threads", "n_context", "n_sequences", "n_batch"))


class Message(ctypes.Structure):
    _fields_ = (("role", ctypes.c_char_p), ("text", ctypes.c_char_p), ("n_bytes", ctypes.c_size_t))


class Sampling(ctypes.Structure):
    _fields_ = (
        ("temperature", ctypes.c_float),
        ("top_k", ctypes.c_uint32),
        ("top_p", ctypes.c_float),
        ("min_p", ctypes.c_float),
        ("repeat_penalty", ctypes.c_float),
        ("seed", ctypes.c_uint64),
    )


ON_TEXT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_char), ctypes.c_size_t)


@cache
def library_path() -> Path:
    """The newest build of the library; the test is skipped without one."""
    name = {"win32": "libedgellm.dll", "darwin": "libedgellm.dylib"}.get(sys.platform, "libedgellm.so")
    found = [*ROOT.glob(f"build/*/{name}")]
    if not found:
        pytest.skip(f"the C library is not built: build/*/{name}")
    return max(found, key=lambda path: path.stat().st_mtime)


@cache
def library() -> Any:
    """The loaded library."""
    loaded = ctypes.CDLL(str(library_path()))
    for name in ("edgellm_error", "edgellm_version"):
        getattr(loaded, name).restype = ctypes.c_char_p
    for name in ("edgellm_n_vocab", "edgellm_n_context"):
        getattr(loaded, name).restype = ctypes.c_size_t
    return loaded


class CallError(Exception):
    """A call that did not return EDGELLM_OK."""

    def __init__(self, status: int) -> None:
        super().__init__(library().edgellm_error().decode())
        self.status = status


def call(name: str, *arguments: Any) -> None:
    """Call a function that returns a status; raises CallError."""
    status = getattr(library(), name)(*arguments)
    if status != OK:
        raise CallError(status)


def _ids(tokens: Sequence[int]) -> Any:
    return (ctypes.c_int32 * len(tokens))(*tokens)


class CModel:
    """A model that the C library has opened, with one sequence."""

    def __init__(self, path: Path | int, *, offset: int = 0, n_bytes: int = 0, **options: int) -> None:
        self.handle = ctypes.c_void_p()
        given = ctypes.byref(Options(**options))
        if isinstance(path, int):
            part = (ctypes.c_uint64(offset), ctypes.c_uint64(n_bytes))
            call("edgellm_open_descriptor", path, *part, given, ctypes.byref(self.handle))
        else:
            call("edgellm_open", os.fsencode(path), given, ctypes.byref(self.handle))
        number = ctypes.c_int32(-1)
        call("edgellm_open_sequence", self.handle, ctypes.byref(number))
        self.sequence = number.value

    def __enter__(self) -> CModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        library().edgellm_close(self.handle)

    def _array(self, name: str, *arguments: Any) -> list[int]:
        """Ids that a function writes, after it was asked how many."""
        n = ctypes.c_size_t()
        status = getattr(library(), name)(self.handle, *arguments, None, ctypes.c_size_t(), ctypes.byref(n))
        if status == OK:
            assert n.value == 0
            return []
        if status != TOO_SMALL:
            raise CallError(status)
        ids = (ctypes.c_int32 * n.value)()
        call(name, self.handle, *arguments, ids, n, ctypes.byref(n))
        return list(ids)

    def tokenize(
        self, text: str | bytes, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        raw = text.encode() if isinstance(text, str) else text
        size = ctypes.c_size_t(len(raw))
        return self._array("edgellm_tokenize", raw, size, int(add_special), int(parse_special))

    def token_text(self, token: int) -> bytes:
        n = ctypes.c_size_t()
        text = ctypes.create_string_buffer(65536)
        call("edgellm_token_text", self.handle, token, text, ctypes.c_size_t(65536), ctypes.byref(n))
        return text.raw[: n.value]

    def chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        texts = [message["content"].encode() for message in messages]
        given = (Message * len(messages))(
            *(
                Message(message["role"].encode(), text, len(text))
                for message, text in zip(messages, texts, strict=True)
            )
        )
        return self._array("edgellm_chat", given, ctypes.c_size_t(len(messages)))

    def keep(self, tokens: Sequence[int]) -> int:
        n = ctypes.c_size_t()
        size = ctypes.c_size_t(len(tokens))
        call("edgellm_keep", self.handle, self.sequence, _ids(tokens), size, ctypes.byref(n))
        return n.value

    def length(self) -> int:
        n = ctypes.c_size_t()
        call("edgellm_length", self.handle, self.sequence, ctypes.byref(n))
        return n.value

    def step(self, tokens: Sequence[int]) -> list[float]:
        logits = (ctypes.c_float * library().edgellm_n_vocab(self.handle))()
        size = ctypes.c_size_t(len(tokens))
        call("edgellm_step", self.handle, self.sequence, _ids(tokens), size, logits)
        return list(logits)

    def sample(self, logits: Sequence[float], step: int = 0, **sampling: float) -> int:
        token = ctypes.c_int32(-1)
        row = (ctypes.c_float * len(logits))(*logits)
        given = ctypes.byref(Sampling(**sampling))
        none = ctypes.c_size_t()
        number = ctypes.c_uint64(step)
        call("edgellm_sample", self.handle, row, given, None, none, number, ctypes.byref(token))
        return token.value

    def generate(
        self,
        tokens: Sequence[int],
        max_tokens: int,
        sampling: Mapping[str, float] | None = None,
        *,
        stop_after: int = 0,
    ) -> list[str]:
        """The pieces of the answer. stop_after: pieces after which the callback ends it (0: it does not)."""
        pieces: list[str] = []

        def receive(user: int | None, text: Any, n_bytes: int) -> int:
            pieces.append(ctypes.string_at(text, n_bytes).decode())
            return int(len(pieces) == stop_after)

        n = ctypes.c_size_t()
        call(
            "edgellm_generate",
            self.handle,
            self.sequence,
            _ids(tokens),
            ctypes.c_size_t(len(tokens)),
            ctypes.byref(Sampling(**(sampling or {}))),
            ctypes.c_size_t(max_tokens),
            ON_TEXT(receive),
            None,
            ctypes.byref(n),
        )
        return pieces
