"""The systemd unit that `edgellm serve --install-service` prints.

Source: systemd.service(5), systemd.exec(5), systemd.resource-control(5).
"""

from __future__ import annotations

import getpass
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgellm.commands.loading import adapters
from edgellm.commands.options import Command
from edgellm.commands.settings import Settings
from edgellm.errors import UsageError
from edgellm.server.settings import is_loopback

ENVIRONMENT = "/etc/edgellm.env"
# Memory of Python, NumPy and the server, without the models.
OVERHEAD_BYTES = 512 << 20

_TEMPLATE = """\
# Made by `edgellm serve --install-service`.
# Install: save this as /etc/systemd/system/edgellm.service, then
#   sudo systemctl daemon-reload && sudo systemctl enable --now edgellm
# Watch: journalctl -u edgellm -f{key_comment}

[Unit]
Description=edgellm: language models over HTTP
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=notify
ExecStart={exec_start}
EnvironmentFile={optional}{environment}
Environment=PYTHONUNBUFFERED=1
Restart=on-failure
RestartSec=5
TimeoutStartSec=15min
TimeoutStopSec=45
MemoryMax={memory}
OOMPolicy=stop
Nice=5

{identity}
NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=strict
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
UMask=0077
{folders}{network}
[Install]
WantedBy=multi-user.target
"""


# Options that do not become flags of the unit as they are.
_APART = ("api_key", "cache_dir", "draft", "install_service", "keep_chats", "lora")
# Folders in which systemd creates those that a service may write to.
_CACHES, _STATES = Path("/var/cache"), Path("/var/lib")


def unit(command: Command, settings: Settings, models: Sequence[Path], *, user: str | None = None) -> str:
    """The unit of a server with these settings. models: files or folders, which are named absolutely.

    Keys are no part of it, because every user can read a unit. UsageError for options that a service cannot
    have.
    """
    paths = [_absolute(path) for path in models]
    lora = [adapter._replace(path=_absolute(adapter.path)) for adapter in adapters(settings)]
    arguments = [sys.executable, "-m", "edgellm", "serve", *map(str, paths), *_flags(command, settings)]
    arguments += [f"--lora={adapter.path}={adapter.scale:g}" for adapter in lora]
    paths += [adapter.path for adapter in lora]
    if settings["draft"] is not None:
        draft = _absolute(settings["draft"])
        # Anything that is no file is a model's name, as for `serve` itself.
        arguments.append(f"--draft={draft if draft.exists() else settings['draft']}")
        paths += [draft] if draft.exists() else []
    if settings["cache_dir"] is not None:
        arguments.append(f"--cache-dir={_absolute(settings['cache_dir'])}")
    if settings["keep_chats"] is not None:
        arguments.append(f"--keep-chats={_absolute(settings['keep_chats'])}")
    local = is_loopback(settings["host"])
    keys = settings["api_key"] or ()
    if len(keys) > 1:
        raise UsageError(f"A service reads one API key, from {ENVIRONMENT}, and {len(keys)} were given")
    needs_key = bool(keys) or not local
    identity = _identity([*paths, Path(sys.executable), Path(__file__)], user or getpass.getuser())
    make_key_file = f"echo EDGELLM_API_KEY=KEY | sudo install -m 600 /dev/stdin {ENVIRONMENT}"
    memory = settings["max_memory"]
    return _TEMPLATE.format(
        key_comment=f"\n# Before that, give it a key: {make_key_file}" if needs_key else "",
        exec_start=" ".join(quoted(argument) for argument in arguments),
        optional="" if needs_key else "-",
        environment=ENVIRONMENT,
        memory="90%" if memory is None else str(memory + OVERHEAD_BYTES),
        identity=identity,
        folders=_writable("--cache-dir", settings["cache_dir"], _CACHES, "CacheDirectory", identity)
        + _writable("--keep-chats", settings["keep_chats"], _STATES, "StateDirectory", identity),
        network="IPAddressDeny=any\nIPAddressAllow=localhost\n" if local else "",
    )


def quoted(argument: str) -> str:
    """An argument of ExecStart, quoted so that systemd neither splits nor expands it."""
    for special, written in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("%", "%%"), ("$", "$$")):
        argument = argument.replace(special, written)
    plain = argument and not any(char.isspace() or char in "\"'\\;" for char in argument)
    return argument if plain else f'"{argument}"'


def _flags(command: Command, settings: Settings) -> Iterator[str]:
    """Flags of all options that were set in any way: a service has another environment than a user."""
    for option in command.options:
        if settings.origins[option.name] == "default" or option.name in _APART:
            continue
        value, flag = settings[option.name], option.flags[-1]
        if option.kind.name == "switch":
            yield flag if value else f"--no-{flag.removeprefix('--')}"
            continue
        values: Sequence[Any] = value if option.repeated else [value]
        for one in values:
            # One word, so that a value may begin with a dash.
            yield f"{flag}={-1 if one == math.inf else one}"


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(Path(path).expanduser()))


def _writable(option: str, folder: str | None, place: Path, directive: str, identity: str) -> str:
    """Lines that let the service write to a folder; everything else is read-only.

    place, directive: where systemd makes such folders, and how it is told to.
    """
    if folder is None:
        return ""
    path = _absolute(folder)
    if path != place and path.is_relative_to(place):
        return f"{directive}={path.relative_to(place)}\n{directive}Mode=0700\n"
    if identity.startswith("DynamicUser"):
        raise UsageError(
            f"{option} is {path}, which a service of its own user cannot write to; use a folder in "
            f"{place}, such as {place / 'edgellm'}"
        )
    return f"ReadWritePaths={quoted(str(path))}\n"


def _identity(paths: Sequence[Path], user: str) -> str:
    """User of the service: a dynamic one, unless it reads files in somebody's home."""
    homes = (Path("/home"), Path("/root"), Path("/run/user"))
    at_home = [path for path in paths if any(path.is_relative_to(home) for home in homes)]
    if not at_home:
        return "DynamicUser=yes\nProtectHome=yes"
    if user == "root":
        raise UsageError(
            f"{at_home[0]} is in a home folder, which a service of its own user cannot read; "
            "install edgellm and keep models elsewhere (such as /opt and /srv), or run this as that user"
        )
    return f"User={user}\nProtectHome=read-only"
