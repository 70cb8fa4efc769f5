"""The models that a server may be asked for, by their names and by those of adapters."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from edgellm.engine.adapters import AdapterInfo
from edgellm.errors import UsageError, one_line
from edgellm.server import served
from edgellm.server.errors import RequestError
from edgellm.server.served import Source

log = logging.getLogger("edgellm.server")


class Sources:
    """Names and files of models, in memory or not.

    models: those of the start. adapters: of the only model there is. look: all models that are there by now,
    asked where a name is not known or all models are listed. Raises UsageError for adapters beside several
    models, or an adapter with a model's name.
    """

    def __init__(
        self,
        models: Sequence[tuple[str, Path]],
        adapters: Sequence[AdapterInfo],
        look: Callable[[], Sequence[tuple[str, Path]]],
    ) -> None:
        self._sources: dict[str, Source] = {}
        self._look = look
        for name, path in models:
            self._add(name, path)
        self.adapters = adapters
        if self.adapters and len(self._sources) != 1:
            raise UsageError(f"Adapters need a single model, and {len(self._sources)} are to be served.")
        for info in self.adapters:
            if info.name in self._sources:
                raise UsageError(
                    f"A model and an adapter are both called {info.name}; rename the adapter's file."
                )

    @property
    def sources(self) -> list[Source]:
        return list(self._sources.values())

    def refresh(self) -> None:
        """Take up the files that have appeared, and forget models not in memory whose files are gone."""
        if self.adapters:
            return  # they belong to the only model that there was
        for source in self.sources:
            if source.gone:
                del self._sources[source.name]
                log.info("%s is gone", one_line(source.path))
        known = {source.path for source in self.sources}
        for name, path in self._look():
            # One that is still being copied changes all the time, or is renamed.
            with contextlib.suppress(OSError):
                if path not in known and time.time() - path.stat().st_mtime > served.SETTLED_S:
                    self._add(name, path)
                    log.info("found %s", one_line(path))

    def find(self, name: str | None) -> Source:
        """The model of this name, or of the adapter of this name; without a name, the only model.

        RequestError 404 if there is none.
        """
        if not name and len(self._sources) == 1:
            return next(iter(self._sources.values()))
        source = self._named(name) if name else None
        if source is None or source.gone:
            self.refresh()
            source = self._named(name) if name else None
        known = ", ".join([*self._sources, *(info.name for info in self.adapters)]) or "none"
        if not name:
            raise RequestError(400, f"model is missing; the models are {known}.", param="model")
        if source is None and self.adapter(name) is not None:
            source = next(iter(self._sources.values()))  # adapters are those of the only model
        if source is None:
            raise RequestError(
                404,
                f"There is no model {name[:200]!r}; the models are {known}.",
                param="model",
                code="model_not_found",
            )
        return source

    def _named(self, name: str) -> Source | None:
        return self._sources.get(name) or self._sources.get(name.removesuffix(":latest"))

    def _add(self, name: str, path: Path) -> None:
        unique, number = name, 2
        while unique in self._sources:
            unique, number = f"{name}-{number}", number + 1
        self._sources[unique] = Source(unique, path, int(path.stat().st_mtime))

    def adapter(self, name: str | None) -> AdapterInfo | None:
        """The adapter of this name, unless a model has it."""
        names = {name, (name or "").removesuffix(":latest")}
        if names & self._sources.keys():
            return None
        return next((info for info in self.adapters if info.name in names), None)

    def take_up(self, name: str, path: Path) -> None:
        """Serve a file under a name from now on, unless it is served already."""
        if not any(source.path == path for source in self.sources):
            self._add(name, path)
