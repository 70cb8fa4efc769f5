"""Bad clients on real sockets: each is disconnected, and a good one beside them is answered all the while."""

from __future__ import annotations

import json
import logging
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from edgellm.server.pacing import BURST
from edgellm.server.settings import Limits, ServerSettings
from tests.support.http_server import Running, running, until_idle
from tests.unit.server.conftest import OPTIONS

LIMITS = Limits(
    connections=24,
    header_s=2.0,
    body_s=2.0,
    body_bytes=64_000,
    bodies_bytes=100_000,
    write_stall_s=2.0,
    refusals_s=1e6,
)
ASK = {"prompt": "once", "max_tokens": 3, "temperature": 0}
WAIT_S = 60.0


@pytest.fixture(scope="module")
def server(tiny_model: Path) -> Iterator[Running]:
    with running([("tiny", tiny_model)], OPTIONS, ServerSettings(port=0, limits=LIMITS)) as started:
        yield started


@pytest.fixture(scope="module")
def patient(tiny_model: Path) -> Iterator[Running]:
    """A server with the same limits, whose deadlines no test reaches."""
    limits = replace(LIMITS, header_s=WAIT_S, body_s=WAIT_S)
    with running([("tiny", tiny_model)], OPTIONS, ServerSettings(port=0, limits=limits)) as started:
        yield started


@pytest.fixture(autouse=True)
def nothing_is_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@contextmanager
def connected(server: Running) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_S) as opened:
        yield opened


def until_closed(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass  # it had not read all that we sent
    return received


def send_what_is_taken(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return


def post(body: bytes, *more: str, length: int | None = None) -> bytes:
    head = "\r\n".join(
        (
            "POST /v1/completions HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            f"Content-Length: {len(body) if length is None else length}",
            *more,
        )
    )
    return head.encode() + b"\r\n\r\n" + body


def status(received: bytes) -> int:
    return int(received.split(b" ", 2)[1])


def slow_header(server: Running) -> None:
    with connected(server) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: local")
        received = until_closed(connection)
    assert status(received) == 408
    assert json.loads(received.partition(b"\r\n\r\n")[2])["error"]["type"] == "timeout_error"


def drop_by_drop(server: Running) -> None:
    """Each byte comes in time, and all of them do not."""
    with connected(server) as connection:
        connection.settimeout(0.1)
        for byte in b"GET /" + b"a" * 10_000:
            connection.sendall(bytes([byte]))
            try:
                received = connection.recv(1000)
            except TimeoutError:
                continue
            assert status(received) == 408
            return
    raise AssertionError("a client may take for ever")


def silence(server: Running) -> None:
    with connected(server) as connection:
        assert until_closed(connection) == b""


def long_header(server: Running) -> None:
    with connected(server) as connection:
        send_what_is_taken(connection, b"GET /health HTTP/1.1\r\nX-Long: " + b"a" * 1_000_000)
        assert until_closed(connection)[:12] in (b"HTTP/1.1 431", b"")


def slow_body(server: Running) -> None:
    with connected(server) as connection:
        connection.sendall(post(b'{"prompt": "on', length=100))
        assert status(connection.recv(4096)) == 408


def body_after_the_answer(server: Running) -> None:
    """The answer does not wait for the body, and the body does not come."""
    with connected(server) as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: elsewhere\r\nContent-Length: 1000\r\n\r\n1")
        assert status(until_closed(connection)) == 403


def half_closed(server: Running) -> None:
    """A client that closes its half has gone."""
    with connected(server) as connection:
        connection.sendall(post(json.dumps({**ASK, "max_tokens": None, "ignore_eos": True}).encode()))
        connection.shutdown(socket.SHUT_WR)
        assert until_closed(connection) == b""


def pipelined_garbage(server: Running) -> None:
    with connected(server) as connection:
        connection.sendall(post(json.dumps(ASK).encode()) + b"\x00\xff garbage\r\n\r\n")
        received = until_closed(connection)
    assert status(received) == 200
    assert received.count(b"HTTP/1.1 400") == 1


def short_body(server: Running) -> None:
    with connected(server) as connection:
        connection.sendall(post(b'{"prompt": "on', length=100))
        connection.shutdown(socket.SHUT_WR)
        received = until_closed(connection)
    assert status(received) == 400
    assert "shorter" in json.loads(received.partition(b"\r\n\r\n")[2])["error"]["message"]


def malformed_chunks(server: Running) -> None:
    """The bytes after the header are no body; the request has begun by then."""
    with connected(server) as connection:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head + b'5\r\n{"pro\r\nzz\r\n')
        assert until_closed(connection)[:12] in (b"HTTP/1.1 400", b"")


def gone_behind_a_next_request(server: Running) -> None:
    """Bytes of a next request do not hide that the client has gone."""
    with connected(server) as connection:
        endless = {**ASK, "max_tokens": None, "ignore_eos": True, "stream": True}
        connection.sendall(post(json.dumps(endless).encode()) + b"GET /heal")
        assert connection.recv(100)


BAD_CLIENTS: tuple[Callable[[Running], None], ...] = (
    slow_header,
    drop_by_drop,
    silence,
    long_header,
    slow_body,
    body_after_the_answer,
    half_closed,
    pipelined_garbage,
    short_body,
    malformed_chunks,
    gone_behind_a_next_request,
)


def test_a_good_client_is_answered_beside_all_bad_ones(server: Running) -> None:
    with ThreadPoolExecutor(len(BAD_CLIENTS)) as pool, server.client() as good:
        expected = good.post("/v1/completions", json=ASK).json()["choices"][0]["text"]
        bad = [pool.submit(client, server) for client in BAD_CLIENTS]
        n_answers = 0
        while n_answers < 3 or not all(one.done() for one in bad):
            answer = good.post("/v1/completions", json=ASK)
            assert answer.status_code == 200
            assert answer.json()["choices"][0]["text"] == expected
            n_answers += 1
        for one in bad:
            one.result()
    until_idle(server)


def test_new_clients_take_the_places_of_idle_ones(patient: Running) -> None:
    idle = [socket.create_connection(("127.0.0.1", patient.port), timeout=WAIT_S) for _ in range(40)]
    try:
        with patient.client() as good:
            assert good.post("/v1/completions", json=ASK).status_code == 200
        assert idle[0].recv(1) == b""
    finally:
        for one in idle:
            one.close()


def test_where_every_place_is_in_use_a_client_is_told_so(patient: Running) -> None:
    waiting = [socket.create_connection(("127.0.0.1", patient.port), timeout=WAIT_S) for _ in range(24)]
    try:
        for one in waiting:
            one.sendall(post(b"", "Expect: 100-continue", length=10))
            assert status(one.recv(100)) == 100
        with connected(patient) as late:
            received = until_closed(late)
        assert status(received) == 503
        assert b"retry-after" in received
    finally:
        for one in waiting:
            one.close()


def test_who_sends_nothing_but_garbage_waits_for_the_answers(tiny_model: Path) -> None:
    """Many refusals take long on any machine, and other clients are answered meanwhile."""
    limits = replace(LIMITS, header_s=WAIT_S, refusals_s=10.0)
    n_waiting = 5
    with running([("tiny", tiny_model)], OPTIONS, ServerSettings(port=0, limits=limits)) as strict:
        begin = time.monotonic()
        for number in range(BURST + n_waiting):
            with connected(strict) as connection:
                connection.sendall(b"\x00 garbage\r\n\r\n")
                if number == BURST + n_waiting - 1:
                    with strict.client() as good:
                        assert good.get("/health").status_code == 200
                assert status(until_closed(connection)) == 400
        assert time.monotonic() - begin >= (n_waiting - 1) / limits.refusals_s


def test_bodies_together_are_bounded(patient: Running) -> None:
    """Neither body is complete; the second to come is more than there is room for."""
    with connected(patient) as first, connected(patient) as second:
        for one in (first, second):
            one.sendall(post(b" " * 60_000, length=61_000))
        answered, _, _ = select.select([first, second], [], [], WAIT_S)
        assert [status(one.recv(4096)) for one in answered] == [503]
    with patient.client() as good:
        assert good.post("/v1/completions", json=ASK).status_code == 200


def test_a_client_that_does_not_read_is_shown_out(server: Running) -> None:
    """It asks again and again and reads nothing, until both sides' buffers are full."""
    ended: list[type[Exception]] = []

    def ask() -> None:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(WAIT_S)
            connection.connect(("127.0.0.1", server.port))
            try:
                while True:
                    connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
            except OSError as error:
                ended.append(type(error))

    asker = threading.Thread(target=ask)
    asker.start()
    with server.client() as good:
        while asker.is_alive():
            assert good.get("/health").status_code == 200
    asker.join()
    assert ended[0] in (BrokenPipeError, ConnectionResetError)


def test_random_bytes_do_not_disturb(server: Running) -> None:
    """Mutants of valid requests: for any answer, nothing fails and the server goes on."""
    dice = random.Random(5)
    request = post(json.dumps(ASK).encode())
    for _ in range(150):
        data = bytearray(request)
        for _ in range(dice.randrange(1, 6)):
            place = dice.randrange(len(data))
            match dice.randrange(3):
                case 0:
                    data[place] = dice.randrange(256)
                case 1:
                    del data[place : place + dice.randrange(1, 30)]
                    data = data or bytearray(b"\0")
                case _:
                    data[place:place] = dice.randbytes(dice.randrange(1, 30))
        with connected(server) as connection:
            send_what_is_taken(connection, bytes(data))
            connection.shutdown(socket.SHUT_WR)
            received = until_closed(connection)
            assert not received or status(received) < 500
    with httpx.Client(base_url=server.url, timeout=WAIT_S) as good:
        assert good.post("/v1/completions", json=ASK).status_code == 200
