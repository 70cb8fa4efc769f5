"""Addresses under which other devices reach a server, and the link that takes its key to a phone."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import os
import socket
import sys
from pathlib import Path
from urllib.parse import quote

from edgellm.server.settings import is_address

# Address for documentation (RFC 5737): a datagram socket that is connected to it sends nothing.
_ELSEWHERE = ("192.0.2.1", 9)
_PRIVATE_ZONES = frozenset({"local", "lan", "internal", "home", "localdomain"})
_PRIVATE_DOMAINS = (["home", "arpa"], ["fritz", "box"])
# Sockets of the responders that make NAME.local known on Linux.
_RESPONDERS = (Path("/run/avahi-daemon/socket"), Path("/var/run/avahi-daemon/socket"))


def urls(host: str, port: int) -> list[str]:
    """Addresses that a browser can open, the most widely reachable first.

    host: address that the server listens on. All addresses (0.0.0.0, ::) become the one that this machine has
    in its network, and NAME.local where something answers for that name.
    """
    if not (is_address(host) and ipaddress.ip_address(host).is_unspecified):
        return [url(host, port)]
    found = []
    if (address := network_address()) is not None:
        found.append(url(address, port))
    if _answers_for_local_names():
        found.append(url(f"{machine_name()}.local", port))
    return found or [url("127.0.0.1", port)]


def url(host: str, port: int) -> str:
    """Address of a server as a browser takes it."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def link(address: str, key: str) -> str:
    """Address of the page with the key in its fragment, which browsers do not send."""
    return f"{address}/#key={quote(key, safe='')}"


def network_address() -> str | None:
    """This machine's IPv4 address on the route to other networks; None without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(_ELSEWHERE)
        found = ipaddress.ip_address(probe.getsockname()[0])
        if not (found.is_loopback or found.is_unspecified):
            return str(found)
    return None


def machine_name() -> str:
    """This machine's own name, without a domain, in lower case."""
    return socket.gethostname().partition(".")[0].lower()


def _answers_for_local_names() -> bool:
    """True if something on this machine announces NAME.local (multicast DNS, RFC 6762)."""
    return sys.platform == "darwin" or os.name == "nt" or any(path.exists() for path in _RESPONDERS)


def is_household_name(host: str) -> bool:
    """True for a name that no stranger can have resolve to this machine (DNS rebinding).

    Names without a dot and those of private zones are answered by the household's own router or machines:
    .local (RFC 6762), .home.arpa (RFC 8375), .internal, and .lan, .home and .localdomain, which the public
    root does not have. fritz.box and ts.net belong to the makers of routers and of private networks, who
    answer for every name in them; in ts.net the first label must be this machine's. host: in lower case.
    """
    labels = host.removesuffix(".").split(".")
    if not all(labels):
        return False
    if len(labels) == 1 or labels[-1] in _PRIVATE_ZONES or labels[-2:] in _PRIVATE_DOMAINS:
        return True
    return len(labels) > 2 and labels[-2:] == ["ts", "net"] and labels[0] == machine_name()


def qr_code(text: str, *, colours: bool) -> str:
    """A QR code of a text in half blocks, two modules a character.

    colours: light on dark in any terminal, with escapes (ECMA-48).
    """
    import segno

    drawn = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(drawn, border=2, compact=True)
    lines = drawn.getvalue().splitlines()
    return "\n".join(f"\x1b[97;40m{line}\x1b[0m" if colours else line for line in lines)
