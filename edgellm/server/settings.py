"""The settings of a server."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm.server.chat_folder import ChatFolder
    from edgellm.server.puller import Puller

MB = 1_000_000
STEP_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one client may cost; each limit has its name in the error that it causes.

    refusals_s: how many times a second one address is told that it sent no request, beyond a few.
    """

    connections: int = 256
    header_bytes: int = 16 * 1024
    header_s: float = 10.0
    body_bytes: int = 8 * MB
    body_s: float = 30.0
    bodies_bytes: int = 64 * MB
    write_stall_s: float = 30.0
    refusals_s: float = 8.0
    ping_s: float = 10.0
    queue: int = 64
    output_tokens: int | None = None
    choices: int = 16
    inputs: int = 2048


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Address to listen on and clients to answer.

    api_keys: any of them is asked for; empty: none is. allowed_hosts: names that a Host header may carry
    besides those of the address itself. origins: web pages of other origins that may call ("*": all).
    step_timeout_s: a step of the engine that makes no end for so long ends the server (infinite: never).
    puller: fetches and removes models for clients; None: nothing does.
    chats: keeps the page's conversations; None: nothing does.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    limits: Limits = Limits()
    step_timeout_s: float = STEP_TIMEOUT_S
    puller: Puller | None = None
    chats: ChatFolder | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise UsageError(f"port is {self.port}; it must be between 0 and 65535.")
        if not self.loopback and not self.api_keys:
            raise UsageError(f"host is {self.host}, which others can reach; an API key is needed for that.")
        if not self.step_timeout_s > 0:
            raise UsageError("The step timeout is 0; give a time such as 10m, or -1 for none.")
        if "" in self.api_keys:
            raise UsageError("An API key is empty.")

    @property
    def loopback(self) -> bool:
        """True if only programs on this machine can connect."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """True if an address to listen on, or that of a request, is this machine's own."""
    return ipaddress.ip_address(host).is_loopback if is_address(host) else host == "localhost"


def is_address(host: str) -> bool:
    """True if a host is written as an IP address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
