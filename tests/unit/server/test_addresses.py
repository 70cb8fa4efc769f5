"""Addresses that a server prints: those that other devices can open, and the link with its QR code."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import pytest

from edgellm.engine.load_options import LoadOptions
from edgellm.server import addresses
from edgellm.server.models import ModelManager
from edgellm.server.run import serve
from edgellm.server.settings import ServerSettings


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine called pi at 192.168.1.5; the file that its responder has."""
    responder = tmp_path / "avahi"
    monkeypatch.setattr(addresses, "_RESPONDERS", (responder,))
    monkeypatch.setattr(addresses, "network_address", lambda: "192.168.1.5")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(socket, "gethostname", lambda: "Pi.example")
    return responder


def test_all_addresses_become_one_that_a_phone_can_open(at_home: Path) -> None:
    assert addresses.urls("0.0.0.0", 8080) == ["http://192.168.1.5:8080"]
    at_home.touch()
    both = ["http://192.168.1.5:8080", "http://pi.local:8080"]
    assert addresses.urls("0.0.0.0", 8080) == both
    assert addresses.urls("::", 8080) == both
    assert addresses.urls("127.0.0.1", 80) == ["http://127.0.0.1:80"]
    assert addresses.urls("fe80::1", 80) == ["http://[fe80::1]:80"]


def test_a_machine_without_a_network_names_itself(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "network_address", lambda: None)
    assert addresses.urls("0.0.0.0", 8080) == ["http://127.0.0.1:8080"]


def test_a_loopback_address_is_none_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_ELSEWHERE", ("127.0.0.1", 9))
    assert addresses.network_address() is None


def test_a_key_is_written_so_that_the_page_reads_it() -> None:
    assert addresses.link("http://pi.local", "a b#c%") == "http://pi.local/#key=a%20b%23c%25"


@pytest.mark.parametrize("colours", [True, False])
def test_a_qr_code_has_two_modules_a_character(colours: bool) -> None:
    drawn = addresses.qr_code("http://192.168.178.45:8080/#key=bakol-timur-fesod", colours=colours)
    assert ("\x1b[97;40m" in drawn) == colours
    lines = re.sub(r"\x1b\[[0-9;]*m", "", drawn).splitlines()
    n_modules = len(lines[0])
    assert (n_modules - 4 - 17) % 4 == 0  # versions have 21, 25, 29, ... modules, and a border of 2
    assert {len(line) for line in lines} == {n_modules}
    assert len(lines) == (n_modules + 1) // 2
    assert set("".join(lines)) == set("█▀▄ ")
    assert n_modules < 40  # a narrow terminal holds it


class _Stopped(Exception):
    pass


@pytest.mark.parametrize("shows_link", [True, False])
def test_the_terminal_shows_addresses_and_the_link(
    at_home: Path,
    shows_link: bool,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object) -> None:
        raise _Stopped

    monkeypatch.setattr("edgellm.server.run.make_config", stop)
    settings = ServerSettings("0.0.0.0", 0, api_keys=("secret",))
    with pytest.raises(_Stopped):
        serve(settings, ModelManager([], LoadOptions()), shows_link=shows_link)
    shown = capsys.readouterr().err
    assert "listening on http://192.168.1.5:" in shown
    assert "0.0.0.0" not in shown
    assert bool(re.search(r"http://192\.168\.1\.5:\d+/#key=secret\n", shown)) == shows_link
