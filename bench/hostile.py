"""A well-behaved client beside clients that send slow headers, headers of 1 MB, half a body, and garbage.

    python -m bench.hostile -m model.gguf

Starts a server and requests one answer after another, first alone, then beside the bad clients on the same
machine, which use some of its cores, too. Exits with 1 if the answers then come at less than half the speed.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import statistics
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from bench.load import serving

MOST_SLOWDOWN = 2.0
HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
PAUSE_S = 0.05


class Attackers:
    """Clients on threads of their own, `n_each` of each kind, until `stop`; `tried` counts their attempts."""

    def __init__(self, port: int, n_each: int) -> None:
        self.tried: Counter[str] = Counter()
        self._port = port
        self._over = threading.Event()
        self._garbage = random.Random(0).randbytes(2000) + b"\r\n\r\n" + b"GET / HTTP/1.1\r\n\r\n" * 50
        kinds = (self.slow_header, self.long_header, self.half_a_body, self.garbage)
        self._threads = [
            threading.Thread(target=self._attack, args=(kind,)) for kind in kinds for _ in range(n_each)
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads and wait for them."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def slow_header(self, connection: socket.socket) -> None:
        """A header that never ends, 7 bytes at a time."""
        connection.sendall(HEAD)
        while not self._over.wait(0.2):
            connection.sendall(b"X-a: b\r\n")

    def long_header(self, connection: socket.socket) -> None:
        """A header of 1 MB."""
        connection.sendall(HEAD + b"X-Long: " + b"a" * (1 << 20))
        connection.recv(100)

    def half_a_body(self, connection: socket.socket) -> None:
        """A body that ends after one of its 500 bytes."""
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{"
        )
        connection.shutdown(socket.SHUT_WR)
        connection.recv(100)

    def garbage(self, connection: socket.socket) -> None:
        """Random bytes with requests behind them."""
        connection.sendall(self._garbage)
        connection.recv(100)

    def _attack(self, kind: Callable[[socket.socket], None]) -> None:
        while not self._over.wait(PAUSE_S):
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=5) as connection:
                    kind(connection)
            except OSError:
                pass  # the server has disconnected it
            self.tried[kind.__name__] += 1


def speeds(url: str, n_answers: int, n_tokens: int) -> list[float]:
    """Tokens per second of answers to one client, one after another."""
    asked = {
        "prompt": "The history of rivers is",
        "max_tokens": n_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    found = []
    for _ in range(n_answers):
        request = urllib.request.Request(
            f"{url}/v1/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        begin = time.perf_counter()
        with urllib.request.urlopen(request, timeout=120) as response:
            usage = json.load(response)["usage"]
        found.append(usage["completion_tokens"] / (time.perf_counter() - begin))
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", required=True, type=Path)
    parser.add_argument("--attackers", type=int, default=8, metavar="N", help="of each of the four kinds")
    parser.add_argument("--answers", type=int, default=8, metavar="N", help="timed alone, and beside them")
    parser.add_argument("--tokens", type=int, default=128, metavar="N", help="of each answer")
    given = parser.parse_args()
    with serving(given.model) as (url, _):
        attackers = Attackers(urlsplit(url).port or 0, given.attackers)
        speeds(url, 2, given.tokens)
        alone = statistics.median(speeds(url, given.answers, given.tokens))
        attackers.start()
        try:
            speeds(url, 1, given.tokens)
            begin, before = time.perf_counter(), Counter(attackers.tried)
            beside = statistics.median(speeds(url, given.answers, given.tokens))
            seconds = time.perf_counter() - begin
            tried = ", ".join(f"{name} {n}" for name, n in sorted((attackers.tried - before).items()))
        finally:
            attackers.stop()
    print(f"{alone:.1f} tok/s alone, {beside:.1f} beside {4 * given.attackers} hostile clients")
    print(f"{alone / beside:.2f} times slower; tried in {seconds:.0f} s: {tried}")
    return 0 if alone <= MOST_SLOWDOWN * beside else 1


if __name__ == "__main__":
    sys.exit(main())
