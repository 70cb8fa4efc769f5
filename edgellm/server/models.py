"""The models a server offers: loaded when they are asked for, within a budget, and unloaded again.

All changes of what is in memory happen one after another, off the event loop, so that models which are
loaded go on answering meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from edgellm.engine.adapters import name_adapters
from edgellm.engine.describe import describe
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.loading import LoadEstimate, estimate, memory_needed, reachable_memory
from edgellm.engine.model import Model
from edgellm.engine.planning import vocabulary_difference
from edgellm.engine.prefix_store import PrefixStore
from edgellm.engine.runner import EngineThread
from edgellm.errors import (
    BackendError,
    EdgeLLMError,
    FileChangedError,
    FileError,
    FormatError,
    MemoryLimitError,
    ModelError,
    OverloadedError,
    one_line,
    size_text,
)
from edgellm.server.errors import RequestError
from edgellm.server.scarcity import no_memory
from edgellm.server.served import Loaded, Served, Source
from edgellm.server.sources import Sources

log = logging.getLogger("edgellm.server")

# How long a request waits for the room that the running requests of other models hold.
ROOM_S = 30.0


class ModelManager(Sources):
    """Loads models, hands them out by name, and ends them.

    options: how to load each of them; its max_memory is for all together, its draft model for those whose
    vocabulary it has. on_demand: load none before it is asked for; otherwise the first ones that fit are
    loaded at the start. idle_s: seconds without requests after which a model is unloaded. room_s: seconds
    that a request waits for others to make room. store: keeps what has been read of prompts beyond this
    process; closed with the manager. models, look: as in `Sources`.
    """

    def __init__(
        self,
        models: Sequence[tuple[str, Path]],
        options: LoadOptions,
        *,
        on_demand: bool = False,
        idle_s: float = math.inf,
        room_s: float = ROOM_S,
        look: Callable[[], Sequence[tuple[str, Path]]] = tuple,
        store: PrefixStore | None = None,
    ) -> None:
        super().__init__(models, name_adapters(options.lora), look)
        self._options = options
        self._on_demand = on_demand
        self._idle_s = idle_s
        self._room_s = room_s
        self._store = store
        self._changing = asyncio.Lock()  # held while a model is loaded or unloaded
        self._freed = asyncio.Event()  # a model has become idle
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[None] | None = None
        self._closing = False
        self.n_loads = 0
        self.n_unloads = 0

    @property
    def loaded(self) -> list[Loaded]:
        return [source.loaded for source in self._sources.values() if source.loaded]

    @property
    def ready(self) -> bool:
        """True once every model that was to be loaded at the start is."""
        return self._starting is None or self._starting.done()

    def start(self) -> None:
        """Begin to load the models that are loaded at the start, one after another."""

        async def load_first() -> None:
            for source in self.sources:
                await self._load_once(source, evict=False)

        if not self._on_demand:
            self._starting = self._spawn(load_first())

    async def wait(self) -> None:
        """Return when all models of the start are loaded; raises what the first one failed with."""
        if self._starting is not None:
            await asyncio.shield(self._starting)

    @asynccontextmanager
    async def use(
        self, name: str | None, keep_s: float | None = None, n_ctx: int | None = None
    ) -> AsyncIterator[Served]:
        """A model, or one with an adapter, which is loaded if need be and stays so inside the block.

        keep_s: seconds to keep it without users from now on; None: as before. n_ctx: a context that is
        wanted; it is loaded with that if it was trained for it, memory allows it, and nobody uses it. Raises
        RequestError if there is no such model or memory could never hold it, OverloadedError if models in use
        leave no room.
        """
        source = self.find(name)
        if n_ctx is not None:
            await self._widen(source, n_ctx)
        loaded = await self._acquire(source)
        if keep_s is not None:
            loaded.keep_s = keep_s
        info = self.adapter(name)
        try:
            if info is None:
                yield Served(source.name, loaded)
            else:  # alone, and in full where answers do not usually use it
                yield Served(info.name, loaded, {info.name: info.scale or 1.0})
        finally:
            loaded.release()

    async def _widen(self, source: Source, n_ctx: int) -> None:
        """Have a model loaded anew with a larger context, once nobody uses it; it stays so afterwards."""
        wanted = await asyncio.to_thread(self._wider, source, n_ctx)
        if wanted is None:
            return
        source.n_ctx = wanted
        deadline = asyncio.get_running_loop().time() + self._room_s
        while source.loaded is not None and source.loaded.model.n_ctx < wanted:
            async with self._changing:
                if source.idle:
                    log.info("%s is loaded anew with a context of %d", source.name, wanted)
                    await self._unload(source)
                    return
                self._freed.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._freed.wait()
            except TimeoutError:
                return  # in use all the time: it answers with the context that it has

    def _wider(self, source: Source, n_ctx: int) -> int | None:
        """The context of at most n_ctx that a model can have and has not; None if there is none."""
        options = self._options_for(source)
        loaded = source.loaded
        wanted = min(n_ctx, trained_context(source.path) or 0)
        if wanted <= (estimate(source.path, options).n_ctx if loaded is None else loaded.model.n_ctx):
            return None
        try:
            memory_needed(source.path, replace(options, context=wanted), self._budget())
        except EdgeLLMError as error:
            log.info("%s keeps its context: %s", source.name, error)
            return None
        return wanted

    async def estimate(self, source: Source) -> LoadEstimate:
        """Sizes of a model once it is loaded; of its file only the metadata is read."""
        return await asyncio.to_thread(lambda: estimate(source.path, self._options_for(source)))

    def unload(self, name: str | None) -> Source:
        """Unload a model that is loaded as soon as nobody uses it; its source."""
        source = self.find(name)
        if source.loaded is not None:
            source.loaded.keep_s = 0.0
            self._idle(source)
        return source

    async def forget(self, source: Source) -> None:
        """Unload a model and serve it no longer; RequestError 409 while it is in use."""
        async with self._changing:
            if source.state == "loading" or (source.loaded is not None and not source.idle):
                raise RequestError(409, f"The model {source.name} is in use; try again later.", param="model")
            await self._unload(source)
            self._sources.pop(source.name, None)

    async def close(self) -> None:
        """End every request and free every model."""
        self._closing = True
        self._freed.set()
        while self._tasks:
            await asyncio.wait(self._tasks)
        async with self._changing:
            for source in self.sources:
                if source.loaded is not None:
                    await self._unload(source)
        if self._store is not None:
            await asyncio.to_thread(self._store.close)

    async def _acquire(self, source: Source) -> Loaded:
        if source.n_waiting >= self._options.max_waiting:
            raise OverloadedError(
                f"{source.n_waiting} requests already wait for the model {source.name}; try again later."
            )
        source.n_waiting += 1  # so that it is not unloaded before it is used
        try:
            if source.loaded is not None and source.loaded.model.changed:
                await self._unload_changed(source)
            if source.loaded is None:
                await self._load_changed(source) if source.changed else await self._load_once(source)
            assert source.loaded is not None
            source.loaded.acquire()
            return source.loaded
        finally:
            source.n_waiting -= 1
            self._idle(source)

    async def _unload_changed(self, source: Source) -> None:
        """Unload a model whose file has changed; RequestError 503 while it still changes or is in use."""
        if not source.settled:
            raise changed_error(source, "its file is being written")
        async with self._changing:
            loaded = source.loaded
            if loaded is None or not loaded.model.changed:
                return  # another request was first
            if loaded.n_users:
                raise changed_error(source, "its file has changed, and answers from the old one are ending")
            log.warning("the file of %s has changed: it is loaded anew", source.name)
            source.changed = True
            await self._unload(source)

    async def _load_changed(self, source: Source) -> None:
        """Load a model whose file has changed; RequestError 503 if it is none: it may be one soon."""
        if not source.settled:
            raise changed_error(source, "its file is being written")
        try:
            await self._load_once(source)
        except (FormatError, FileError, ModelError, FileChangedError) as error:
            raise changed_error(source, f"its file has changed, and cannot be loaded now: {error}") from None
        source.changed = False

    async def _load_once(self, source: Source, *, evict: bool = True) -> None:
        """Have a model loaded; all who ask meanwhile wait for the same load."""
        while source.loaded is None:
            joined = source.loading is not None
            if source.loading is None:
                source.loading = self._spawn(self._load(source, evict=evict))
            await asyncio.shield(source.loading)
            if not evict and not joined:
                return

    async def _load(self, source: Source, *, evict: bool) -> None:
        try:
            memory = await self._measure(source)
            deadline = time.monotonic() + self._room_s
            while True:
                async with self._changing:
                    self._check_open()
                    if await self._make_room(memory, evict=evict):
                        await self._load_now(source)
                        return
                    self._freed.clear()
                    self._check_open()  # it may have been closed while room was made
                if not evict:
                    log.info(
                        "%s is loaded when it is asked for: there is no room beside the others", source.name
                    )
                    return
                try:
                    async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                        await self._freed.wait()
                except TimeoutError:
                    raise self._no_room(source, memory) from None
        except (EdgeLLMError, MemoryError, OSError) as error:
            scarce = no_memory(f"Loading {source.name}", error)
            log.error("cannot load %s: %s", source.name, one_line(scarce or error))
            if scarce is not None:
                raise scarce from None
            if not isinstance(error, EdgeLLMError):
                raise BackendError(f"Loading {source.name} failed; the server's log says why.") from None
            raise
        except Exception:
            log.exception("cannot load %s", source.name)
            raise BackendError(f"Loading {source.name} failed; the server's log says why.") from None
        finally:
            source.loading = None

    async def _load_now(self, source: Source) -> None:
        begin = time.perf_counter()
        model = await asyncio.to_thread(self._load_model, source)
        runner = EngineThread(model.scheduler, f"edgellm-engine-{source.name}")
        source.loaded = Loaded(source.name, model, runner, self._idle_s, lambda: self._idle(source))
        self.n_loads += 1
        seconds = time.perf_counter() - begin
        log.info("loaded %s in %.2f s, %s", source.name, seconds, source.loaded.memory_text)
        self._idle(source)

    def _load_model(self, source: Source) -> Model:
        model = Model.load(source.path, self._options_for(source), store=self._store)
        for note in model.notes:
            log.warning("%s: %s", source.name, note)
        model.template.warm()
        return model

    async def _measure(self, source: Source) -> int:
        """The bytes that a model takes; raises if memory that holds nothing else would not hold it."""
        try:
            return await asyncio.to_thread(self._memory_needed, source)
        except MemoryLimitError as error:
            if self._options.max_memory is None:
                raise  # other programs may end
            raise RequestError(400, str(error), param="model", code="model_too_large") from None

    def _memory_needed(self, source: Source) -> int:
        return memory_needed(source.path, self._options_for(source), self._budget())

    def _options_for(self, source: Source) -> LoadOptions:
        """The options, with the draft model only where it can be one."""
        options = self._options
        if source.n_ctx is not None:
            options = replace(options, context=source.n_ctx)
        draft = options.draft
        if draft is None:
            return options
        reason: str | None = "no model drafts for itself"
        if not draft.samefile(source.path):
            reason = vocabulary_difference(source.path, draft)
        if reason is None:
            return options
        log.info("%s cannot be the draft model of %s: %s", draft.name, source.name, reason)
        return replace(options, draft=None)

    def _budget(self) -> int | None:
        """Bytes for all models together; None if nobody knows."""
        return reachable_memory() if self._options.max_memory is None else self._options.max_memory

    async def _make_room(self, n_bytes: int, *, evict: bool) -> bool:
        """Unload idle models, the least recently used first, until so much is free; False if it cannot be."""
        while True:
            budget = self._budget()
            used = sum(loaded.n_bytes for loaded in self.loaded)
            if budget is None or used + n_bytes <= budget:
                return True
            idle = [source for source in self._sources.values() if source.idle]
            could = sum(source.loaded.n_bytes for source in idle if source.loaded)
            if not evict or not idle or used - could + n_bytes > budget:
                return False
            await self._unload(min(idle, key=lambda source: source.loaded.used_at if source.loaded else 0.0))

    def _no_room(self, source: Source, n_bytes: int) -> OverloadedError:
        used = sum(loaded.n_bytes for loaded in self.loaded)
        busy = ", ".join(loaded.name for loaded in self.loaded if loaded.n_users)
        return OverloadedError(
            f"The model {source.name} needs {size_text(n_bytes)}; {size_text(used)} of the "
            f"{size_text(self._budget() or 0)} for models are taken, and {busy or 'another model'} is "
            f"in use; try again later."
        )

    async def _unload(self, source: Source) -> None:
        """Free an idle model; the caller holds the lock."""
        loaded, source.loaded = source.loaded, None
        self._disarm(source)
        if loaded is None:
            return
        await asyncio.to_thread(loaded.runner.stop)
        await asyncio.to_thread(loaded.model.close)
        self.n_unloads += 1
        log.info("unloaded %s", source.name)

    def _idle(self, source: Source) -> None:
        """If nobody uses a model: let others have its room, and unload it when its time is up."""
        self._disarm(source)
        loaded = source.loaded
        if loaded is None or not source.idle:
            return
        self._freed.set()
        if not math.isinf(loaded.keep_s) and not self._closing:
            loop = asyncio.get_running_loop()
            source.timer = loop.call_later(loaded.left_s, lambda: self._spawn(self._expire(source)))

    def _disarm(self, source: Source) -> None:
        if source.timer is not None:
            source.timer.cancel()
            source.timer = None

    async def _expire(self, source: Source) -> None:
        async with self._changing:
            if source.loaded is None or not source.idle or self._closing:
                return
            if source.loaded.left_s > 0:  # it has been used since
                self._idle(source)
            else:
                await self._unload(source)

    def _check_open(self) -> None:
        if self._closing:
            raise OverloadedError("The server is stopping.")

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """A task that is kept until it ends; its error is for those who wait for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task


def changed_error(source: Source, why: str) -> RequestError:
    """The error for a model that cannot answer at the moment because of its file."""
    return RequestError(
        503, f"The model {source.name} cannot answer: {why}; try again.", code="model_changed"
    )


def trained_context(path: Path) -> int | None:
    """The context that a model was trained for; None if its file does not say."""
    metadata = describe(path).metadata
    found = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    return found if isinstance(found, int) else None
