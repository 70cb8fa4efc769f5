"""Models of the Hub that are known by name: `models/hub/*.toml`, several models in each file.

No hash of theirs is known here: it is the Hub's, at the first download (`hub.fetch_checked`).
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

from edgellm.errors import FormatError
from edgellm.store.catalog import catalog_folder, known_models

# Slower answers than this many tokens a second are waited for, not read.
LEAST_TOK_S = 8.0
# Bytes for each parameter in the formats that the catalog names, with their tables and scales.
WEIGHT_BYTES = {"Q4_K_M": 0.62, "Q8_0": 1.07, "MXFP4": 0.58}
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "aliases": list,
    "repo": str,
    "quantization": str,
    "parameters": float,
    "licence": str,
    "languages": str,
    "about": str,
}
_OPTIONAL: dict[str, type | tuple[type, ...]] = {"active": float, "generates": bool}


class HubModel(NamedTuple):
    """A model of the Hub: its repository, the quantization that is taken, and facts for people.

    active: parameters that a token uses; 0: all. generates: False for models of embeddings and ranks.
    """

    name: str
    aliases: tuple[str, ...]
    repo: str
    quantization: str
    parameters: float
    licence: str
    languages: str
    about: str
    active: float = 0.0
    generates: bool = True

    @property
    def reference(self) -> str:
        """The model as a name on the Hub, `user/repo:QUANT`."""
        return f"{self.repo}:{self.quantization}"

    @property
    def size(self) -> int:
        """Bytes of the file, about."""
        return round(self.parameters * WEIGHT_BYTES[self.quantization])


@functools.cache
def hub_models() -> tuple[HubModel, ...]:
    """All known models of the Hub; FormatError for a malformed entry or a name used twice."""
    return read_hub_catalog(catalog_folder() / "hub")


def find_on_hub(name: str) -> HubModel | None:
    """The known model of the Hub with this name or alias (any case), or None."""
    wanted = name.lower().removesuffix(":latest")
    return next((model for model in hub_models() if wanted in (model.name, *model.aliases)), None)


def suited(memory: int | None) -> list[HubModel]:
    """Models for everyday questions that fit in so many bytes of memory, the best first; none below 2 GB."""
    steps = ((12e9, "qwen3.5-4b"), (6e9, "qwen3-4b-instruct-2507"), (3e9, "qwen3-1.7b"), (2e9, "qwen3-0.6b"))
    found = (find_on_hub(name) for least, name in steps if memory is not None and memory >= least)
    return [model for model in found if model is not None]


def best_for(memory: int | None) -> HubModel | None:
    """The model for everyday questions that suits a machine of so many bytes of memory; None below 2 GB."""
    return next(iter(suited(memory)), None)


def read_hub_catalog(folder: Path) -> tuple[HubModel, ...]:
    """The catalog in `folder`; FormatError for a malformed entry, or a name used twice."""
    import tomllib

    found: list[HubModel] = []
    taken = {name.lower() for model in known_models() for name in (model.name, *model.aliases)}
    for path in sorted(folder.glob("*.toml")):
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))["models"]
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError) as error:
            raise FormatError(f"{path}: not a TOML file with [[models]]: {error}") from None
        for number, table in enumerate(tables, 1):
            model = _model(f"{path}: model {number}", table)
            for name in (model.name, *model.aliases):
                if name in taken:
                    raise FormatError(f"{path}: the name {name!r} is used twice")
                taken.add(name)
            found.append(model)
    return tuple(found)


def _model(where: str, table: Any) -> HubModel:
    if not isinstance(table, dict) or table.keys() - _OPTIONAL.keys() != _FIELDS.keys():
        raise FormatError(
            f"{where}: the keys must be {', '.join(_FIELDS)}, and may be {', '.join(_OPTIONAL)}"
        )
    for key, kind in (_FIELDS | _OPTIONAL).items():
        if key in table and not isinstance(table[key], kind):
            raise FormatError(f"{where}: {key} is {table[key]!r}, which has the wrong type")
    names = [table["name"], *table["aliases"]]
    if any(not isinstance(name, str) or not re.fullmatch(r"[a-z0-9.:-]+", name) for name in names):
        raise FormatError(f"{where}: a name holds more than a-z, 0-9 and .:-")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", table["repo"]) or table["quantization"] not in WEIGHT_BYTES:
        raise FormatError(f"{where}: repo must be user/repo, quantization one of {', '.join(WEIGHT_BYTES)}")
    return HubModel(**{**table, "aliases": tuple(table["aliases"])})
