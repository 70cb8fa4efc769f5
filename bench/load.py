"""A server under mixed load: streams, clients that leave, cancel while they wait or read slowly, and bad
requests.

    python bench/load.py -m model.gguf --seconds 180 --clients 16

Each prompt has a word of its own, and the idle server answers each of them first. Under load every answer
must equal that one, or be a prefix of it if the client leaves. Exits with 1 and the reason if an answer
differs, if a request ends in a wrong way, or if the server keeps requests, open files or memory.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from edgellm.errors import size_text

ROOT = Path(__file__).resolve().parent.parent
N_PROMPTS = 12
MAX_TOKENS = 32
CONTEXT = 512
# Growth allowed after the warm-up: more threads at once than before, more rows of logits in one step.
MEMORY_BYTES = 8_000_000
WARM_UP = 0.3

HOWS = {"stream": 55, "leave": 15, "cancel": 10, "slow": 10, "too long": 5, "malformed": 5}


class WrongError(Exception):
    """A wrong answer, or a wrong end of one."""


@dataclass
class Report:
    """Outcome of all requests, and the server's resources after the warm-up and at the end."""

    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    n_tokens: int = 0
    seconds: float = 0.0
    files: tuple[int, int] = (0, 0)
    anonymous_bytes: tuple[int, int] = (0, 0)
    metrics: dict[str, float] = field(default_factory=dict)

    def faults(self) -> list[str]:
        """Reasons for which the run fails."""
        found = list(self.wrong)
        if self.files[1] > self.files[0]:
            found.append(f"the server has {self.files[1]} open files, and had {self.files[0]}")
        grown = self.anonymous_bytes[1] - self.anonymous_bytes[0]
        if grown > MEMORY_BYTES:
            found.append(f"the server's memory has grown by {size_text(grown)}")
        for name in ("requests_processing", "requests_deferred", 'requests_total{reason="error"}'):
            if self.metrics[f"edgellm_{name}"]:
                found.append(f"{name} is {self.metrics[f'edgellm_{name}']:g} at the end")
        return found

    def __str__(self) -> str:
        ends = ", ".join(f"{name} {n}" for name, n in sorted(self.ends.items()))
        held = [size_text(size) for size in self.anonymous_bytes]
        return (
            f"{sum(self.ends.values())} requests in {self.seconds:.0f} s: {ends}\n"
            f"{self.n_tokens / self.seconds:.1f} pieces of text/s read by clients\n"
            f"after the warm-up and at the end: {self.files[0]} and {self.files[1]} open files, "
            f"{held[0]} and {held[1]} of memory of its own"
        )


class Load:
    """The clients. url, pid: of a server with one model. seed: makes the clients' actions repeatable."""

    def __init__(self, url: str, pid: int, *, seed: int = 0) -> None:
        self.report = Report()
        self._url = url
        self._pid = pid
        self._dice = random.Random(seed)
        self._lock = threading.Lock()
        words = [f"{self._dice.getrandbits(40):010x}" for _ in range(N_PROMPTS)]
        self._prompts = [f"The word is {word}. What is a {word}? It is" for word in words]
        self._expected: list[str] = []

    def run(self, seconds: float, n_clients: int) -> Report:
        """Collect the answers, run the clients for that long, and wait until the server is idle."""
        with self._client() as client:
            self._expected = [
                "".join(self._answer(client, number, lambda: None)) for number in range(N_PROMPTS)
            ]
            self._fill_cache(client)
            self._wait_until_idle(client)
        begin = time.monotonic()
        self._run_clients(begin + WARM_UP * seconds, n_clients)
        warm = self._held()
        self._run_clients(begin + seconds, n_clients)
        self.report.seconds = time.monotonic() - begin
        after = self._held()
        self.report.files, self.report.anonymous_bytes = (warm[0], after[0]), (warm[1], after[1])
        return self.report

    def _fill_cache(self, client: httpx.Client) -> None:
        """Touch every page of the cache, because the system allocates pages at first use."""
        for number in range(8):
            body = {"prompt": [100 + number] * (CONTEXT - 8), "max_tokens": 1}
            client.post("/v1/completions", json=body).raise_for_status()

    def _run_clients(self, until: float, n_clients: int) -> None:
        seeds = [self._dice.getrandbits(32) for _ in range(n_clients)]
        threads = [threading.Thread(target=self._work, args=(until, random.Random(seed))) for seed in seeds]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with self._client() as client:
            self._wait_until_idle(client)

    def _work(self, until: float, dice: random.Random) -> None:
        while time.monotonic() < until:
            (how,) = dice.choices(list(HOWS), weights=list(HOWS.values()))
            try:
                with self._client() as client:
                    end = self._one(client, how, dice)
            except (WrongError, httpx.HTTPError, ValueError, KeyError) as error:
                end = f"{how}: wrong"
                with self._lock:
                    self.report.wrong.append(f"{how}: {type(error).__name__}: {error}")
            with self._lock:
                self.report.ends[end] += 1

    def _one(self, client: httpx.Client, how: str, dice: random.Random) -> str:
        """One request of this kind; returns how it ended."""
        number = dice.randrange(N_PROMPTS)
        if how in ("too long", "malformed"):
            body = b'{"prompt": "' + (b"long " * CONTEXT * 2 + b'"}' if how == "too long" else b"")
            response = client.post(
                "/v1/completions", content=body, headers={"content-type": "application/json"}
            )
            code = {"too long": "context_length_exceeded", "malformed": "invalid_json"}[how]
            if response.status_code != 400 or response.json()["error"]["code"] != code:
                raise WrongError(f"answered with {response.status_code}: {response.text[:200]}")
            return how
        if how == "cancel":
            try:
                client.post("/v1/completions", json=self._body(number, stream=False), timeout=0.05)
            except httpx.TimeoutException:
                return how
            return "cancelled too late"
        pause = 0.03 if how == "slow" else 0.0
        pieces: list[str] = []
        n_read = dice.randrange(1, MAX_TOKENS // 2) if how == "leave" else None
        try:
            for piece in self._answer(client, number, lambda: time.sleep(pause)):
                pieces.append(piece)
                if n_read is not None and len(pieces) >= n_read:
                    break
        except OverflowError:
            time.sleep(0.2)
            return "put off"
        text, expected = "".join(pieces), self._expected[number]
        with self._lock:
            self.report.n_tokens += len(pieces)
        if text != expected and not (how == "leave" and expected.startswith(text)):
            raise WrongError(f"prompt {number} is answered with {text!r}, and alone with {expected!r}")
        return how

    def _answer(self, client: httpx.Client, number: int, pause: Callable[[], None]) -> Iterator[str]:
        """The pieces of a streamed answer; OverflowError if the queue is full."""
        body = self._body(number, stream=True)
        with client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code == 503 and "retry-after" in response.headers:
                raise OverflowError
            if response.status_code != 200:
                raise WrongError(f"answered with {response.status_code}")
            reason = None
            for line in response.iter_lines():
                pause()
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    break
                choice = json.loads(line.removeprefix("data: "))["choices"][0]
                reason = choice["finish_reason"]
                if choice["text"]:
                    yield choice["text"]
            if reason not in ("stop", "length"):
                raise WrongError(f"ended with {reason}")

    def _body(self, number: int, *, stream: bool) -> dict[str, object]:
        prompt = self._prompts[number]
        # Half of them draw, each with its own seed.
        drawn = {"temperature": 1.0, "seed": number} if number % 2 else {"temperature": 0.0}
        return {"prompt": prompt, "max_tokens": MAX_TOKENS, "stream": stream, "ignore_eos": True, **drawn}

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self._url, timeout=120)

    def _wait_until_idle(self, client: httpx.Client) -> None:
        deadline = time.monotonic() + 60
        while True:
            text = client.get("/metrics").text
            found = {name: float(value) for name, value in re.findall(r"^(edgellm\S+) (\S+)$", text, re.M)}
            self.report.metrics = found
            busy = found["edgellm_requests_processing"] + found["edgellm_requests_deferred"]
            if not busy or time.monotonic() > deadline:
                return
            time.sleep(0.05)

    def _held(self) -> tuple[int, int]:
        """(open files, bytes of own memory) of the server, once its last connections are closed."""
        folder = Path(f"/proc/{self._pid}")
        n_files = min(self._n_files(folder) for _ in range(20))
        status = (folder / "status").read_text()
        (kib,) = re.findall(r"^RssAnon:\s+(\d+) kB", status, re.M)
        return n_files, int(kib) << 10

    def _n_files(self, folder: Path) -> int:
        time.sleep(0.02)
        return len(os.listdir(folder / "fd"))


@contextmanager
def serving(model: Path, *arguments: str) -> Iterator[tuple[str, int]]:
    """(URL, process id) of a server of the model on a free port, with few slots and a short queue."""
    command = [sys.executable, "-m", "edgellm", "serve", str(model), "--port", "0", "-c", str(CONTEXT)]
    command += ["-np", "4", "--queue", "8", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT))}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    url, ready = "", threading.Event()

    def read() -> None:
        nonlocal url
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"listening on (http://\S+)", line):
                url = found[1]
            if "ready:" in line:
                ready.set()
        ready.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        ready.wait(300)
        if process.poll() is not None:
            raise SystemExit(f"the server does not start: {' '.join(command)}")
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()
        reader.join()
        process.stderr.close()


def main() -> int:
    """Run the load and print its outcome."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", required=True, type=Path)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with serving(given.model) as (url, pid):
        report = Load(url, pid, seed=given.seed).run(given.seconds, given.clients)
    print(report)
    for fault in report.faults():
        print(f"WRONG: {fault}", file=sys.stderr)
    return 1 if report.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
