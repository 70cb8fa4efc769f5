"""`edgellm serve`: models behind an HTTP API."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.commands.loading import adapters, find_model, load_options
from edgellm.commands.options import (
    BYTES,
    DRAFTING,
    INT,
    LOADING,
    MAX_MEMORY,
    MODEL,
    OFFLINE,
    PACE,
    SWITCH,
    TEXT,
    Command,
    Kind,
    Option,
    Positional,
)
from edgellm.commands.profiles import with_profile
from edgellm.commands.settings import Settings
from edgellm.errors import FileError, UsageError
from edgellm.program.exported import METADATA_FILE
from edgellm.server.durations import duration
from edgellm.store.catalog import known_at

if TYPE_CHECKING:
    from edgellm.engine.prefix_store import PrefixStore
    from edgellm.server.chat_folder import ChatFolder
    from edgellm.server.puller import Puller
    from edgellm.server.settings import ServerSettings

CACHE_CONTEXTS = 4
CACHE_BYTES = 2_000_000_000
DURATION = Kind("duration", duration, duration)


def run(settings: Settings) -> int:
    """Serve until interrupted."""
    if settings["install_service"]:
        return _print_service(settings)
    from edgellm.server.logs import configure
    from edgellm.server.models import ModelManager
    from edgellm.server.run import serve

    configure(as_json=settings["log_json"])
    models = [found for name in settings["names"] or [None] for found in find_models(name, settings)]
    options = load_options(
        settings,
        batch=settings["batch"],
        cache_tokens=settings["cache_tokens"],
        cache_contexts=CACHE_CONTEXTS,
        parallel=settings["parallel"],
        max_waiting=settings["queue"],
        lora=adapters(settings),
    )
    if len(models) == 1:
        options, tuned = with_profile(options, models[0][1], settings.origins)
        if tuned:
            print(f"edgellm: {tuned}", file=sys.stderr)
    if options.draft is not None:
        check_draft([path for _, path in models], options.draft)
    chosen = server_settings(settings, api_keys(settings))
    # A key of our own must be seen; one that was given is shown to whoever starts the server by hand.
    shows_link = bool(chosen.api_keys) and (not settings["api_key"] or sys.stderr.isatty())
    folders = [Path(name) for name in settings["names"] or () if Path(name).is_dir()]
    manager = ModelManager(
        models,
        options,
        on_demand=bool(folders),
        look=lambda: [found for folder in folders for found in models_in(folder)],
        store=_store(settings),
        idle_s=math.inf if settings["idle_unload"] is None else settings["idle_unload"],
    )
    serve(chosen, manager, shows_link=shows_link)
    return 0


def _print_service(settings: Settings) -> int:
    """Print the systemd unit of this server."""
    from edgellm.commands.service import ENVIRONMENT, unit

    # Errors of the server appear now; the service reads its key from a file.
    server_settings(settings, keys=(ENVIRONMENT,))
    names: list[str | None] = settings["names"] or [None]
    places = [
        Path(name) if name is not None and Path(name).is_dir() else find_model(name, settings)
        for name in names
    ]
    print(unit(COMMAND, settings, places), end="")
    return 0


def check_draft(paths: list[Path], draft: Path) -> None:
    """Refuse a draft model that fits none of these models."""
    from edgellm.engine.planning import vocabulary_difference

    for path in paths:
        reason = vocabulary_difference(path, draft)
        if reason is None:
            return
    raise UsageError(
        f"{draft} cannot be the draft model of any of the models; of {path}, because {reason}: "
        "take one of the same vocabulary."
    )


def find_models(name: str | None, settings: Settings) -> list[tuple[str, Path]]:
    """(name in the API, file) of a model, or of every GGUF file in a folder."""
    if name is not None and Path(name).is_dir():
        found = models_in(Path(name))
        if not found:
            raise FileError(f"{name}: the folder holds no GGUF file; give one that does, or a file.")
        return found
    path = find_model(name, settings)
    if name is None and (known := known_at(path)) is not None:
        name = known.name
    return [(_label(path) if name is None or name.endswith(".gguf") else name, path)]


def models_in(folder: Path) -> list[tuple[str, Path]]:
    """(name in the API, file) of every model in a folder at this moment."""
    from edgellm.server.folder import usable

    # The first part stands for a split file, a folder in ONNX form for itself.
    files = [path for path in sorted(folder.glob("*.gguf")) if not _is_later_part(path)]
    files += sorted(folder.glob(f"*/{METADATA_FILE}"))
    return [(_label(path), path) for path in usable(files)]


def _label(path: Path) -> str:
    return path.resolve().parent.name if path.name == METADATA_FILE else path.stem


def api_keys(settings: Settings) -> tuple[str, ...]:
    """The given keys; if one is needed and none is given, the one that is kept for this machine."""
    from edgellm.commands.keys import kept_key
    from edgellm.server.settings import is_loopback

    keys = tuple(settings["api_key"] or ())
    return keys if keys or is_loopback(settings["host"]) else (kept_key(),)


def server_settings(settings: Settings, keys: tuple[str, ...]) -> ServerSettings:
    """Address of the server, and the clients that it answers."""
    from edgellm.server.settings import STEP_TIMEOUT_S, Limits, ServerSettings

    return ServerSettings(
        host=settings["host"],
        port=settings["port"],
        api_keys=keys,
        allowed_hosts=tuple(settings["allowed_host"] or ()),
        origins=tuple(settings["allowed_origin"] or ()),
        limits=Limits(output_tokens=settings["max_output"]),
        step_timeout_s=STEP_TIMEOUT_S if settings["step_timeout"] is None else settings["step_timeout"],
        puller=_puller(settings),
        chats=_chats(settings),
    )


def _puller(settings: Settings) -> Puller | None:
    """Way to fetch models for clients; None without --allow-pull."""
    if not settings["allow_pull"]:
        return None
    if settings["offline"]:
        raise UsageError("--allow-pull needs the network, and --offline forbids it; leave one of them out.")
    from edgellm.commands.sources import puller

    return puller(settings["allow_pull"])


def _chats(settings: Settings) -> ChatFolder | None:
    """Folder of the page's conversations, if they are kept."""
    if settings["keep_chats"] is None or settings["install_service"]:
        return None
    from edgellm.server.chat_folder import chat_folder

    return chat_folder(Path(settings["keep_chats"]).expanduser())


def _store(settings: Settings) -> PrefixStore | None:
    """Store of computed prefixes; UsageError if the folder cannot be used."""
    from edgellm.engine.prefix_store import PrefixStore

    if settings["cache_dir"] is None:
        return None
    size = CACHE_BYTES if settings["cache_size"] is None else settings["cache_size"]
    return PrefixStore(Path(settings["cache_dir"]).expanduser(), size)


def _is_later_part(path: Path) -> bool:
    return "-of-" in path.stem and "-00001-of-" not in path.stem


OPTIONS = (
    Option(
        "host",
        ("--host",),
        "address to listen on; any but this machine's own needs an API key",
        TEXT,
        "ADDRESS",
        default="127.0.0.1",
    ),
    Option("port", ("--port",), "port to listen on; 0: a free one", INT, "N", default=8080),
    Option(
        "api_key",
        ("--password", "--api-key"),
        "key that clients must send (may be repeated); on a network otherwise one that is made and kept",
        TEXT,
        "KEY",
        repeated=True,
    ),
    Option(
        "allowed_host",
        ("--allowed-host",),
        "further name by which clients may call the server (may be repeated)",
        TEXT,
        "NAME",
        repeated=True,
    ),
    Option(
        "allowed_origin",
        ("--allowed-origin",),
        "origin whose web pages may call the server; *: all (may be repeated)",
        TEXT,
        "ORIGIN",
        repeated=True,
    ),
    Option("parallel", ("-np", "--parallel"), "most answers at the same time", INT, "N", default=16),
    Option("queue", ("--queue",), "requests that may wait for their turn", INT, "N", default=64),
    Option(
        "cache_tokens",
        ("--cache-tokens",),
        f"tokens that all conversations together may hold; otherwise {CACHE_CONTEXTS} contexts",
        INT,
        "N",
    ),
    Option(
        "idle_unload",
        ("--idle-unload",),
        "unload a model after this long without requests, such as 5m; otherwise never",
        DURATION,
        "TIME",
    ),
    Option(
        "cache_dir",
        ("--cache-dir",),
        "folder that keeps computed prompts for the next start",
        TEXT,
        "DIR",
    ),
    Option("cache_size", ("--cache-size",), "most bytes in --cache-dir; otherwise 2G", BYTES, "SIZE"),
    Option(
        "keep_chats",
        ("--keep-chats",),
        "folder that keeps the page's conversations, for all devices with the key; otherwise browsers do",
        TEXT,
        "DIR",
    ),
    Option("max_output", ("--max-output",), "most tokens of any answer", INT, "N"),
    Option(
        "step_timeout",
        ("--step-timeout",),
        "end the server, with its threads in the log, when a step takes this long; -1: never; otherwise 10m",
        DURATION,
        "TIME",
    ),
    Option(
        "allow_pull",
        ("--allow-pull",),
        "let clients fetch and delete models: catalog, or a pattern such as user/* (may be repeated)",
        TEXT,
        "SOURCE",
        repeated=True,
    ),
    Option("log_json", ("--log-json",), "log one JSON object per line", SWITCH, default=False),
    Option(
        "install_service",
        ("--install-service",),
        "print a systemd unit that runs this server, with these options, and stop",
        SWITCH,
        default=False,
    ),
)


def _shared(option: Option) -> Option:
    """A loading option with its meaning for several models on one machine."""
    if option is not MAX_MEMORY:
        return option
    return option._replace(help="memory that all models together may take, such as 900M or 2G")


COMMAND = Command(
    summary="Serve models over HTTP.",
    run=run,
    description="Serves models over HTTP, to programs that speak the OpenAI API.",
    positionals=(Positional("names", "model: path, folder, or name (`edgellm list`)", "*"),),
    options=(
        *OPTIONS,
        *(_shared(option) for option in LOADING if option is not MODEL),
        *PACE,
        *DRAFTING,
        OFFLINE,
    ),
    examples=(
        ("edgellm serve", "the default model on http://127.0.0.1:8080"),
        ("edgellm serve a.gguf b.gguf", "two models, both loaded if they fit"),
        ("edgellm serve models/ --max-memory 3G --idle-unload 10m", "a folder, each model loaded on request"),
        ("edgellm serve m.gguf --install-service", "print a systemd unit for this server"),
        ("edgellm serve --host 0.0.0.0 model.gguf", "for the whole network, with an API key"),
    ),
)
