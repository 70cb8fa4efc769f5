"""One server on a tiny model for all tests of the HTTP APIs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edgellm.engine.load_options import LoadOptions
from edgellm.server.settings import Limits, ServerSettings
from tests.support.http_server import Running, running
from tests.support.references import official_gguf, unpacked

__all__ = ["unpacked"]

OPTIONS = LoadOptions(backend="interpreter", context=192, cache_tokens=2048, parallel=4, max_waiting=8)


@pytest.fixture(scope="session")
def tiny_model(unpacked: Path) -> Path:
    return official_gguf("llama", unpacked)


@pytest.fixture(scope="session")
def server(tiny_model: Path) -> Iterator[Running]:
    settings = ServerSettings(port=0, limits=Limits(body_bytes=100_000, ping_s=0.05, inputs=8, choices=4))
    with running([("tiny", tiny_model)], OPTIONS, settings) as started:
        yield started


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened
