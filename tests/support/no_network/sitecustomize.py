"""In a Python process that has this folder on its path, only loopback connections are possible."""

from __future__ import annotations

import socket
from typing import Any

_connect = socket.socket.connect
_getaddrinfo = socket.getaddrinfo
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _guarded_connect(self: socket.socket, address: Any) -> None:
    # A datagram socket sends nothing to connect: a server learns so by which address others reach it.
    outside = isinstance(address, tuple) and address[0] not in _LOOPBACK
    if outside and self.type != socket.SOCK_DGRAM:
        raise RuntimeError(f"tests do not use the network, and something connects to {address[0]}")
    _connect(self, address)


def _guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
    if host not in (*_LOOPBACK, "0.0.0.0"):  # the address of a server that listens everywhere
        raise RuntimeError(f"tests do not use the network, and something looks up {host}")
    return _getaddrinfo(host, *args, **kwargs)


socket.socket.connect = _guarded_connect  # type: ignore[method-assign, assignment]
socket.getaddrinfo = _guarded_getaddrinfo
