"""Profiles that `edgellm tune` finds: threads, CPUs and instruction set of a model on this device."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgellm.store.paths import state_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgellm.engine.load_options import LoadOptions

_FILE = "tuned.json"
_HASHED_BYTES = 1 << 16


class Profile(NamedTuple):
    """Settings that were fastest; gain: of answers, against the defaults. cpus: () for all allowed ones."""

    threads: int
    isa: str
    cpus: tuple[int, ...]
    gain: float

    def words(self) -> str:
        """The settings for people."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        cpus = f" on CPUs {','.join(map(str, self.cpus))}" if self.cpus else ""
        return f"{threads}{cpus}, {self.isa}"


def profile_of(path: Path) -> Profile | None:
    """Profile of a model file on this device; None if there is none, or it no longer fits the device."""
    entry = _read().get(_key(path))
    if entry is None:
        return None
    try:
        profile = Profile(
            int(entry["threads"]), str(entry["isa"]), tuple(map(int, entry["cpus"])), float(entry["gain"])
        )
    except (KeyError, TypeError, ValueError):
        return None
    from edgellm.device.cores import allowed_cpus

    allowed = allowed_cpus()
    fits = set(profile.cpus) <= set(allowed) and 1 <= profile.threads <= len(profile.cpus or allowed)
    return profile if fits else None


def keep_profile(path: Path, profile: Profile | None) -> None:
    """Keep a model's profile, or forget it; OSError if the state folder cannot be written."""
    profiles = _read()
    if profile is None:
        profiles.pop(_key(path), None)
    else:
        profiles[_key(path)] = profile._asdict() | {"name": path.name}
    target = state_folder() / _FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(profiles, indent=1), encoding="utf-8")
    beside.replace(target)


def with_profile(options: LoadOptions, path: Path, origins: Mapping[str, str]) -> tuple[LoadOptions, str]:
    """Options with the profile's settings, and a sentence that says so; unchanged, and "", without a profile.

    Nothing is taken from a profile if the user, the environment or the configuration sets threads or the
    instruction set, or chooses a backend.
    """
    if not (state_folder() / _FILE).is_file() or options.backend not in ("auto", "native"):
        return options, ""
    if any(origins.get(name, "default") != "default" for name in ("threads", "isa")):
        return options, ""
    profile = profile_of(path)
    if profile is None:
        return options, ""
    if profile.cpus:
        from edgellm.device.cores import keep_to_cpus

        keep_to_cpus(profile.cpus)
    sentence = f"{path.name}: tuned for this device: {profile.words()} (edgellm tune --forget undoes it)"
    return replace(options, threads=profile.threads, isa=profile.isa), sentence


def _key(path: Path) -> str:
    """The beginning of a file and its size tell models apart, wherever they lie."""
    import hashlib  # imported here, because a start without profiles needs none

    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_HASHED_BYTES)).hexdigest()[:16]
    return f"{digest}-{path.stat().st_size}"


def _read() -> dict[str, Any]:
    try:
        content = json.loads((state_folder() / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
