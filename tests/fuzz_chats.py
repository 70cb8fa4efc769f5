"""Send mutated requests of all dialects to a server: each is answered or refused as the request's fault.

    python -m tests.fuzz_chats --seconds 300

It starts from a request to each endpoint, from recorded ones of clients, and from those of the shared folder
if that exists. A status of 500, a line of the log above a warning, a request that is still served when its
client has left, and silence are failures.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import random
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from edgellm.engine.load_options import LoadOptions
from edgellm.server.settings import Limits, ServerSettings
from tests.support.damage import damage_bytes, damage_json
from tests.support.fuzzing import WALL_LIMIT_S, Target, main
from tests.support.http_server import Running, running
from tests.support.paths import ROOT, shared
from tests.support.tiny_model import write_tiny_model
from tests.unit.server.test_description import REFUSED, WORKING
from tests.unit.server.test_infill import MARKS, with_marks

MODELS = ("plain", "thinking")
LIMITS = Limits(output_tokens=24, body_bytes=1 << 20, inputs=64, choices=4)
ANSWER_S = WALL_LIMIT_S * 0.7
UNFORESEEN = "its log says why"
TEMPLATE = (
    "{% for t in tools or [] %}{{ t|tojson }}{% endfor %}{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function|tojson }}</call>{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
THINKING = TEMPLATE.replace("{{ m.content }}", "<think>{{ m.thinking }}</think>{{ m.content }}")
METHODS = ("POST",) * 30 + ("GET", "HEAD", "PUT", "DELETE", "OPTIONS")
KINDS = ("application/json",) * 10 + (
    "application/json; charset=utf-16",
    "text/plain",
    "",
    "multipart/form-data",
    "x",
)


class Request(NamedTuple):
    """A request; leaves: the client closes the connection after the first bytes of the answer."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes
    leaves: bool


class Log(logging.Handler):
    """Keeps what the log says above warnings, and what threads die of."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []
        for name in ("edgellm", "uvicorn", "asyncio"):
            logging.getLogger(name).addHandler(self)
        threading.excepthook = lambda given: self.lines.append(f"a thread ended: {given.exc_value!r}")
        sys.unraisablehook = lambda given: self.lines.append(f"unraisable: {given.exc_value!r}")

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


class Originals(NamedTuple):
    """A server, requests to mutate as pairs of path and body, and values of each member of bodies."""

    server: Running
    log: Log
    requests: list[tuple[str, Any]]
    members: dict[str, list[Any]]
    open: contextlib.ExitStack


def prepare(folder: Path) -> Originals:
    """Start the server and read the requests."""
    models = [(name, folder / f"{name}.gguf") for name in MODELS]
    window = {"llama.context_length": 4096, **with_marks(MARKS)}
    for (_, path), template in zip(models, (TEMPLATE, THINKING), strict=True):
        write_tiny_model(path, template=template, **window)
    options = LoadOptions(threads=1, context=4096, cache_contexts=2, parallel=4)
    stack = contextlib.ExitStack()
    server = stack.enter_context(running(models, options, ServerSettings(port=0, limits=LIMITS)))
    requests = list((WORKING | REFUSED).items())
    for path in sorted((ROOT / "tests" / "data" / "clients").glob("*.json")):
        recorded = json.loads(path.read_text(encoding="utf-8"))["requests"]
        requests += [(request["path"], request.get("body")) for request in recorded]
    with contextlib.suppress(pytest.skip.Exception):
        for path in sorted(shared("cases/server").glob("*.json")):
            replayed = json.loads(path.read_text(encoding="utf-8"))["requests"]
            requests += [(request["path"], request["body"]) for request in replayed]
    members: dict[str, list[Any]] = {}
    for _, body in requests:
        for name, value in body.items() if isinstance(body, dict) else ():
            members.setdefault(name, []).append(value)
    return Originals(server, Log(), requests, members, stack)


def request(originals: Originals, rng: random.Random) -> Request:
    """A mutated request."""
    path, body = deepcopy(rng.choice(originals.requests))
    if isinstance(body, dict):
        for _ in range(rng.choice((0, 0, 1, 1, 2, 4))):
            name = rng.choice(sorted(originals.members))
            body[name] = deepcopy(rng.choice(originals.members[name]))
        if rng.random() < 0.3:
            body["stream"] = True
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3))):
        body = damage_json(body, rng)
    if isinstance(body, dict) and rng.random() < 0.95:
        body["model"] = rng.choice(MODELS)
    content = json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.08:
        content = damage_bytes(content, rng)
    headers = {"content-type": rng.choice(KINDS)}
    if rng.random() < 0.1:
        encoding, packed = rng.choice((("gzip", gzip.compress), ("deflate", zlib.compress), ("br", bytes)))
        headers["content-encoding"] = encoding
        content = packed(content) if rng.random() < 0.8 else content
    if rng.random() < 0.1:
        path = rng.choice(
            (path + "/", path + "?a=1&b", "/v1" + path, path.removeprefix("/v1"), "/api/x", path[:-1])
        )
    method = rng.choice(METHODS) if body is not None else "GET"
    return Request(method, path, headers, content, rng.random() < 0.15)


def send(server: Running, made: Request) -> int:
    """Send a request and check the form of its answer; returns its status."""
    with (
        httpx.Client(base_url=server.url, timeout=ANSWER_S) as client,
        client.stream(made.method, made.path, headers=made.headers, content=made.content) as response,
    ):
        status, kind = response.status_code, response.headers.get("content-type", "")
        assert status < 500, f"{status} {response.read()!r}"
        if made.leaves:
            next(response.iter_raw(64), b"")
            return status
        text = response.read().decode()
    assert UNFORESEEN not in text, text
    if kind.startswith("application/json") and made.method != "HEAD":
        json.loads(text)
    elif kind.startswith("application/x-ndjson"):
        for line in text.splitlines():
            json.loads(line)
    elif kind.startswith("text/event-stream"):
        for line in text.split("\n"):
            if line.startswith("data: ") and line != "data: [DONE]":
                json.loads(line.removeprefix("data: "))
    return status


def use(originals: Originals, folder: Path, rng: random.Random) -> str:
    """Send one to three requests at once; the outcome is the first one's."""
    server, log = originals.server, originals.log
    made = [request(originals, rng) for _ in range(rng.choice((1, 1, 2, 3)))]
    for n, one in enumerate(made):
        head = json.dumps(one._replace(content=b"")._asdict(), default=str)
        (folder / f"{n}.txt").write_bytes(head.encode() + b"\n" + one.content)
    with ThreadPoolExecutor(len(made)) as pool:
        statuses = list(pool.map(lambda one: send(server, one), made))
    loaded = [source.loaded for source in server.service.models.sources]
    deadline = time.monotonic() + ANSWER_S
    while any(model is not None and (model.n_users or model.model.scheduler.busy) for model in loaded):
        assert time.monotonic() < deadline, "requests are still served after their answers"
        time.sleep(0.002)
    assert httpx.get(f"{server.url}/health", timeout=ANSWER_S).status_code == 200
    assert not log.lines, "\n".join(log.lines)
    return f"{statuses[0] // 100}xx"


TARGET = Target("tests.fuzz_chats", prepare, use, lambda originals: originals.open.close())

if __name__ == "__main__":
    sys.exit(main(TARGET, __doc__))
