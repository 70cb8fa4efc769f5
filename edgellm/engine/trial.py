"""Compiling of grammars in a process of its own, which is killed if one takes too much time or memory.

llguidance bounds the work of a compiled grammar, and not all of the compiling: divisibility by a large number
or an intersection of many patterns takes minutes and gigabytes, and no thread can be stopped. The process
takes bytes for tokens, so it needs no model; a grammar that compiles there soon does so for any vocabulary.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from edgellm.errors import size_text
from edgellm.system.limits import limit_address_space, limit_cpu_time

# Processor seconds of one grammar, memory of the process beyond what it starts with, seconds on the clock.
CPU_S = 2
MEMORY_BYTES = 512 << 20
WALL_S = 30.0
# Seconds after which a process without work ends.
IDLE_S = 30.0
MAX_FUEL = 1_000_000
TOO_COSTLY = f"compiling it takes more than {CPU_S} seconds or {size_text(MEMORY_BYTES)}"

# Tokens by number or by name, of which the process knows none.
_TOKENS = re.compile(r"<\[[0-9, -]+\]>|<\|\w+\|>")


class Trial:
    """Tries grammars; any thread may call it. The process starts with the first one and ends when idle."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._idle: threading.Timer | None = None

    def failure(self, grammar: str) -> str | None:
        """Reason why a grammar in llguidance's form cannot be used; None if it can."""
        with self._lock:
            if self._idle is not None:
                self._idle.cancel()
            reply = self._ask(_TOKENS.sub("<[0]>", grammar))
            self._idle = threading.Timer(IDLE_S, self.close)
            self._idle.daemon = True
            self._idle.start()
        if reply is None:
            return TOO_COSTLY
        found: str | None = json.loads(reply)
        return found

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._end()

    def _ask(self, grammar: str) -> bytes | None:
        """The reply of the process; None if it ended."""
        process = self._running()
        killer = threading.Timer(WALL_S, process.kill)
        killer.daemon = True
        killer.start()
        reply = b""
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(OSError):
            process.stdin.write(json.dumps(grammar).encode() + b"\n")
            process.stdin.flush()
            reply = process.stdout.readline()
        killer.cancel()
        if not reply.endswith(b"\n"):
            self._end()
            return None
        return reply

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._process is None:
            # The caller may have found this package by a path that a new process does not know.
            root = str(Path(__file__).parents[2])
            code = f"import sys; sys.path.insert(0, {root!r}); from {__name__} import serve; serve()"
            command = [sys.executable, "-c", code]
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL)
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


def serve() -> None:
    """The process: one grammar a line, one reason or null a line."""
    import llguidance

    vocabulary = llguidance.LLTokenizer("byte")
    limits = llguidance.LLParserLimits(initial_lexer_fuel=MAX_FUEL, verbose_errors=False)
    limit_address_space(MEMORY_BYTES)
    for line in sys.stdin.buffer:
        limit_cpu_time(CPU_S)
        matcher = llguidance.LLMatcher(vocabulary, json.loads(line), log_level=0, limits=limits)
        if not matcher.is_error():
            matcher.compute_bitmask()
        reason = matcher.get_error() if matcher.is_error() else None
        sys.stdout.write(json.dumps(reason) + "\n")
        sys.stdout.flush()
