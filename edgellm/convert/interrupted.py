"""State of a calibration under way, in its folder, so that an interrupted one goes on.

A state replaces the one before as a whole: a run that is killed while it writes leaves the earlier one.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgellm.convert.importance import Statistics
from edgellm.system.files import Folder

Floats = NDArray[np.float32]
_INDEX = "index.json"
_SUM, _COUNT = "sum", "count"


@dataclass(slots=True)
class Calibration:
    """Statistics of the inputs; moments: the files of those that have them (moments.py)."""

    statistics: Statistics = field(default_factory=Statistics)
    moments: dict[str, Path] = field(default_factory=dict)


class State(NamedTuple):
    """Operations that are done, the values that others read, by sequence, and what was found so far."""

    n_done: int
    waiting: list[dict[str, Floats]]
    found: Calibration


def save_state(folder: Path, identity: str, state: State) -> None:
    """Replace the state in a folder; identity: of the work. Raises OSError."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for number, values in enumerate(state.waiting):
        arrays |= {f"{number} {name}": rows for name, rows in values.items()}
    arrays |= {f"{_SUM} {name}": sums for name, sums in state.found.statistics.sums.items()}
    arrays |= {f"{_COUNT} {name}": counts for name, counts in state.found.statistics.counts.items()}
    before = _index(folder)
    name = f"state-{state.n_done}.npz"
    with zipfile.ZipFile(folder / name, "w") as archive:
        for key, values_of in arrays.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(values_of), allow_pickle=False)
    index = {
        "identity": identity,
        "state": name,
        "done": state.n_done,
        "moments": {key: path.name for key, path in state.found.moments.items()},
    }
    with Folder(folder) as files:
        files.write(_INDEX, json.dumps(index).encode(), mode=0o666)
    if before is not None and before["state"] != name:
        (folder / before["state"]).unlink(missing_ok=True)


def load_state(folder: Path, identity: str) -> State | None:
    """The state that an interrupted run of the same work has left; None if there is none."""
    index = _index(folder)
    if index is None or index["identity"] != identity:
        return None
    found = Calibration(moments={key: folder / name for key, name in index["moments"].items()})
    waiting: dict[int, dict[str, Floats]] = {}
    with np.load(folder / index["state"]) as arrays:
        for key in arrays.files:
            kind, _, name = key.partition(" ")
            if kind == _SUM:
                found.statistics.sums[name] = arrays[key]
            elif kind == _COUNT:
                found.statistics.counts[name] = arrays[key]
            else:
                waiting.setdefault(int(kind), {})[name] = arrays[key]
    return State(index["done"], [waiting[number] for number in sorted(waiting)], found)


def _index(folder: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((folder / _INDEX).read_text())
    except (OSError, ValueError):
        return None
    return found
