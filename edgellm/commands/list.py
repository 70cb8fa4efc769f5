"""`edgellm list`: models on disk or known by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from edgellm.commands.options import JSON, SWITCH, Command, Option
from edgellm.commands.settings import Settings
from edgellm.errors import size_text
from edgellm.store import hub
from edgellm.store.catalog import is_stored, known_models, stored_path
from edgellm.store.hub_catalog import hub_models
from edgellm.store.paths import models_folder


@dataclass(frozen=True, slots=True)
class Row:
    """One model: `size` in bytes; `path` is None if it is not on disk."""

    name: str
    aliases: tuple[str, ...]
    size: int
    source: str
    path: str | None
    description: str
    licence: str


def rows() -> Iterator[Row]:
    """The catalog, models known on the Hub, then other files in the store, then the Hub's cache."""
    for model in known_models():
        path = str(stored_path(model)) if is_stored(model) else None
        yield Row(model.name, model.aliases, model.size, "catalog", path, model.description, model.licence)
    for known in hub_models():
        parsed = hub.parse_name(known.reference)
        found = None if parsed is None else hub.cached(parsed)
        about = f"{known.about}; {known.languages}"
        path = None if found is None else str(found)
        yield Row(known.name, known.aliases, known.size, "known on the Hub", path, about, known.licence)
    own = {stored_path(model) for model in known_models()}
    for file in sorted(models_folder().rglob("*.gguf")):
        if file not in own and file.is_file():
            yield Row(str(file), (), file.stat().st_size, "store", str(file), "", "")
    for name, file in hub.cached_files():
        size = sum((file.parent / part).stat().st_size for part in hub.parts(file.name))
        yield Row(name, (), size, "hub", str(file), "", "")


def run(settings: Settings) -> int:
    """Print the models, as a table or as JSON."""
    if settings["fit"]:
        from edgellm.commands.fit import judge_all

        return judge_all(settings)
    found = list(rows())
    if settings["json"]:
        print(json.dumps([asdict(row) for row in found], indent=2, ensure_ascii=False))
        return 0
    width = max(len(row.name) for row in found)
    print(f"{'NAME':<{width}}  {'SIZE':>8}  {'ON DISK':<7}  {'ALSO':<24}  ABOUT")
    for row in found:
        size, on_disk, also = size_text(row.size), "yes" if row.path else "no", ", ".join(row.aliases)
        line = f"{row.name:<{width}}  {size:>8}  {on_disk:<7}  {also:<24}  {row.description}"
        print(line.rstrip())
    print("\nA model that is not on disk is fetched when it is first used: edgellm chat NAME.")
    print("user/repo:QUANT is any other of the Hugging Face Hub; edgellm search WORDS finds one.")
    return 0


COMMAND = Command(
    summary="List models.",
    run=run,
    description="Lists the models of the catalog, and those on disk: in edgellm's store and in the cache\n"
    "that Hugging Face tools share.",
    options=(
        Option("fit", ("--fit",), "memory and speed to expect here, as edgellm fit", SWITCH, default=False),
        JSON,
    ),
    examples=(
        ("edgellm list", "a table"),
        ("edgellm list --fit", "with the memory and the speed to expect here"),
        ("edgellm list --json", "the same for a program"),
    ),
)
