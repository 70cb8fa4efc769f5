"""Settings: the value of each option, from flag, environment, configuration file, or the model's own.

The first of these that is set wins. The configuration file is TOML: keys at the top are for every command
with such an option; keys in a table with a command's name are for that command, and win over those at the
top.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgellm.commands.options import SHARED, Command, Option, check_choice
from edgellm.errors import EdgeLLMError, UsageError
from edgellm.store.paths import config_file, offline_by_environment


class Settings:
    """Values of a command's options and arguments, and the origin of each option's value."""

    def __init__(self, command: str, values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
        self.command = command
        self.values = values
        self.origins = origins

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.origins)


def resolve(
    command_name: str,
    command: Command,
    parsed: argparse.Namespace,
    environment: Mapping[str, str] | None = None,
    config: Path | None = None,
) -> Settings:
    """Settings of one run of a command; UsageError names the place of an invalid value."""
    environment = os.environ if environment is None else environment
    path = config or config_file()
    table = _read_config(path, command_name, command)
    values: dict[str, Any] = {p.name: getattr(parsed, p.name) for p in command.positionals}
    origins: dict[str, str] = {}
    for option in command.options:
        flag = getattr(parsed, option.name, None)
        if flag is not None:
            value, origin = flag, f"flag {option.flags[-1]}"
        elif option.variable in environment:
            value, origin = _from_environment(option, environment[option.variable]), option.variable
        elif option.name in table:
            value, origin = _from_config(option, table[option.name], path), str(path)
        else:
            value, origin = option.default, "default"
        if origin != "default":
            check_choice(option, value)
        # No variable or file may switch the network on again.
        if option.name == "offline" and not value and offline_by_environment():
            value, origin = True, "HF_HUB_OFFLINE"
        values[option.name], origins[option.name] = value, origin
    return Settings(command_name, values, origins)


def _from_environment(option: Option, text: str) -> Any:
    try:
        return [option.kind.parse(text)] if option.repeated else option.kind.parse(text)
    except ValueError as error:
        raise UsageError(f"{option.variable}: {error}") from None


def _from_config(option: Option, value: Any, path: Path) -> Any:
    try:
        if option.repeated:
            return [option.kind.check(item) for item in (value if isinstance(value, list) else [value])]
        return option.kind.check(value)
    except ValueError as error:
        raise UsageError(f"{path}: {option.name}: {error}") from None


def _read_config(path: Path, command_name: str, command: Command) -> dict[str, Any]:
    """The file's values for this command; UsageError for malformed values and unknown options."""
    if not path.is_file():
        if "EDGELLM_CONFIG" in os.environ:
            raise UsageError(f"{path}: there is no such file, and EDGELLM_CONFIG names it")
        return {}
    import tomllib

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    own = {option.name for option in command.options}
    general = {key: value for key, value in content.items() if not isinstance(value, dict)}
    special = content.get(command_name, {})
    _refuse_unknown(path, "", general, own | {option.name for option in SHARED})
    _refuse_unknown(path, f"{command_name}.", special, own)
    return {key: value for key, value in {**general, **special}.items() if key in own}


def _refuse_unknown(path: Path, table: str, values: Mapping[str, Any], known: set[str]) -> None:
    for key in values:
        if key not in known:
            import difflib

            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"the options are {', '.join(sorted(known))}"
            raise UsageError(f"{path}: {table}{key} is not an option; {hint}")


def recommended(settings: Settings) -> dict[str, tuple[Any, str]]:
    """(value, origin) of options that nobody set: from the model's file, or else from the engine."""
    if "temperature" not in settings.origins:
        return {}
    from edgellm.engine.load_options import LoadOptions
    from edgellm.engine.options import sampling_defaults
    from edgellm.engine.planning import default_context
    from edgellm.engine.sampling_params import DEFAULTS
    from edgellm.families import build
    from edgellm.gguf.reader import GGUFFile
    from edgellm.store.resolve import local_path

    found: dict[str, tuple[Any, str]] = {name: (value, "default") for name, value in DEFAULTS.items()}
    path = local_path(settings["model"])
    if path is not None:
        with GGUFFile.open(path) as file:
            origin = f"metadata of {path.name}"
            found |= {name: (value, origin) for name, value in sampling_defaults(file.metadata).items()}
            with contextlib.suppress(EdgeLLMError):  # a file that cannot be run has no context
                shapes = {name: info.shape for name, info in file.tensors.items()}
                context = default_context(file, build(file.metadata, shapes), LoadOptions())
                found["context"] = (context, origin)
    return found
