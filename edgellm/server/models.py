"""The models a server offers, and the engine thread of each one that is loaded."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgellm.engine.loading import LoadOptions
from edgellm.engine.model import Model
from edgellm.engine.runner import EngineThread
from edgellm.errors import BackendError, EdgeLLMError, OverloadedError
from edgellm.server.errors import RequestError

log = logging.getLogger("edgellm.server")


@dataclass(slots=True, eq=False)
class Loaded:
    """A model in memory."""

    name: str
    model: Model
    runner: EngineThread
    n_users: int = 0
    used_at: float = field(default_factory=time.monotonic)

    def release(self) -> None:
        """One user less."""
        self.n_users -= 1
        self.used_at = time.monotonic()


@dataclass(slots=True, eq=False)
class Source:
    """A model that may be asked for: its name in the API and its file."""

    name: str
    path: Path
    created: int
    loaded: Loaded | None = None
    error: EdgeLLMError | None = None
    loading: asyncio.Task[None] | None = None


class ModelManager:
    """Loads models, hands them out by name, and ends them.

    options: how to load each of them.
    """

    def __init__(self, models: Sequence[tuple[str, Path]], options: LoadOptions) -> None:
        self._options = options
        self._sources: dict[str, Source] = {}
        for name, path in models:
            unique, number = name, 2
            while unique in self._sources:
                unique, number = f"{name}-{number}", number + 1
            self._sources[unique] = Source(unique, path, int(path.stat().st_mtime))

    @property
    def sources(self) -> list[Source]:
        return list(self._sources.values())

    @property
    def loaded(self) -> list[Loaded]:
        return [source.loaded for source in self._sources.values() if source.loaded]

    @property
    def ready(self) -> bool:
        """Whether every model that was to be loaded at the start is."""
        return all(source.loading is None for source in self._sources.values())

    def start(self) -> None:
        """Begin to load all models, one after another."""

        async def load_all() -> None:
            for source in self._sources.values():
                await self._load(source)

        task = asyncio.create_task(load_all())
        for source in self._sources.values():
            source.loading = task

    async def wait(self) -> None:
        """Return when all models are loaded; raises what the first one failed with."""
        tasks = {source.loading for source in self._sources.values() if source.loading}
        await asyncio.gather(*tasks)
        for source in self._sources.values():
            if source.error is not None:
                raise source.error

    def find(self, name: str | None) -> Source:
        """The model of this name; without a name, the only one. RequestError 404 if there is none."""
        if not name and len(self._sources) == 1:
            return next(iter(self._sources.values()))
        if not name:
            raise RequestError(
                400, f"model is missing; the models are {', '.join(self._sources)}.", param="model"
            )
        source = self._sources.get(name) or self._sources.get(name.removesuffix(":latest"))
        if source is None:
            raise RequestError(
                404,
                f"There is no model {name[:200]!r}; the models are {', '.join(self._sources)}.",
                param="model",
                code="model_not_found",
            )
        return source

    @asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[Loaded]:
        """A loaded model, which stays loaded inside the block."""
        source = self.find(name)
        if source.error is not None:
            raise source.error
        if source.loaded is None:
            raise OverloadedError(f"The model {source.name} is still being loaded; try again.")
        loaded = source.loaded
        loaded.n_users += 1
        try:
            yield loaded
        finally:
            loaded.release()

    async def close(self) -> None:
        """End every request and free every model."""
        for source in self._sources.values():
            if source.loading is not None:
                await asyncio.wait({source.loading})
            loaded, source.loaded = source.loaded, None
            if loaded is not None:
                await asyncio.to_thread(loaded.runner.stop)
                await asyncio.to_thread(loaded.model.close)

    async def _load(self, source: Source) -> None:
        begin = time.perf_counter()
        try:
            model = await asyncio.to_thread(self._load_model, source)
        except EdgeLLMError as error:
            source.error = error
            log.error("cannot load %s: %s", source.name, error)
        except Exception:
            source.error = BackendError(f"Loading {source.name} failed; the server's log says why.")
            log.exception("cannot load %s", source.name)
        else:
            runner = EngineThread(model.scheduler, f"edgellm-engine-{source.name}")
            source.loaded = Loaded(source.name, model, runner)
            log.info("loaded %s in %.2f s", source.name, time.perf_counter() - begin)
        source.loading = None

    def _load_model(self, source: Source) -> Model:
        model = Model.load(source.path, self._options)
        model.template.warm()
        return model
