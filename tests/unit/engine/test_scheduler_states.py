"""Random traffic over a small cache: nothing leaks, every request ends once, with the answer it has alone."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edgellm.engine.options import GenerateOptions
from edgellm.engine.prefix_disk import PrefixDisk
from edgellm.engine.prefix_store import PrefixStore
from edgellm.engine.scheduler import Scheduler
from edgellm.errors import ContextOverflowError, OverloadedError
from tests.support.fake_model import EOG, Collected, CountingBackend, HashModel, alone

N_CTX = 64
MODEL = HashModel(eog_bias=1.0)


class Traffic(RuleBasedStateMachine):
    """Submits, steps, cancels and interrupts in any order."""

    @initialize(
        kind=st.sampled_from([{}, {"recurrent": True}, {"kept_tokens": 9}, {"copies": True}]),
        max_cached=st.integers(0, 4),
        max_active=st.integers(1, 4),
        cache_tokens=st.sampled_from([64, 80, 128, 256]),
        batch=st.sampled_from([4, 16, 64]),
        draft_max=st.sampled_from([0, 3, 20]),
        with_disk=st.booleans(),
    )
    def begin(
        self,
        kind: dict[str, int],
        max_cached: int,
        max_active: int,
        cache_tokens: int,
        batch: int,
        draft_max: int,
        with_disk: bool,
    ) -> None:
        self.backend = CountingBackend(
            MODEL, n_ctx=N_CTX, cache_tokens=cache_tokens, batch=batch, block_tokens=8, **kind
        )
        self.folder = TemporaryDirectory()
        self.store = PrefixStore(Path(self.folder.name), 2000) if with_disk else None
        self.scheduler = Scheduler(
            self.backend,
            frozenset({EOG}),
            max_active=max_active,
            max_waiting=4,
            max_cached=max_cached,
            min_shared=5,
            draft_max=draft_max,
            clock=functools.partial(next, itertools.count()),
            disk=PrefixDisk(self.store, b"m" * 16, self.backend, piece_tokens=16) if self.store else None,
        )
        self.requests: list[Collected] = []

    @rule(
        start=st.integers(0, 2),
        size=st.integers(1, N_CTX),
        tail=st.lists(st.integers(0, 5), max_size=3),
        max_tokens=st.integers(0, 40),
        seed=st.integers(0, 2),
    )
    def submit(self, start: int, size: int, tail: list[int], max_tokens: int, seed: int) -> None:
        prompt = [*([start] * size)[: N_CTX - 4], *tail]
        self._submit(prompt, GenerateOptions(temperature=0.7, seed=seed, max_tokens=max_tokens))

    @rule(index=st.integers(0, 9), tail=st.lists(st.integers(0, 5), min_size=1, max_size=3))
    def continue_one(self, index: int, tail: list[int]) -> None:
        if self.requests:
            prompt = [*self.requests[index % len(self.requests)].request.tokens, *tail]
            self._submit(prompt, GenerateOptions(temperature=0.0, max_tokens=5))

    def _submit(self, prompt: list[int], options: GenerateOptions) -> None:
        one = Collected(prompt, options)
        try:
            self.scheduler.submit(one.request)
        except ContextOverflowError:
            assert len(prompt) >= N_CTX
        except OverloadedError:
            assert self.scheduler.n_waiting >= 4
        else:
            self.requests.append(one)

    @rule(times=st.integers(1, 5))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.scheduler.step()

    @rule()
    def rest(self) -> None:
        self.scheduler.save_some()

    @rule()
    def forget(self) -> None:
        """Restart with nothing but the saved pieces."""
        if not self.scheduler.busy:
            self.scheduler.stop()

    @rule(index=st.integers(0, 9))
    def cancel(self, index: int) -> None:
        if self.requests:
            self.requests[index % len(self.requests)].request.cancel()

    @rule(n_tokens=st.integers(1, N_CTX))
    def work_between(self, n_tokens: int) -> None:
        def work(backend):  # type: ignore[no-untyped-def]
            assert backend.free_blocks * backend.block_tokens >= n_tokens
            return MODEL.logits([1])

        self.scheduler.exclusively(n_tokens, work)

    @invariant()
    def every_open_sequence_belongs_to_somebody(self) -> None:
        if not hasattr(self, "backend"):
            return
        held = {one.request.sequence for one in self.requests if one.request.sequence is not None}
        assert len(self.backend.sequences) == len(held) + self.scheduler.n_cached_sequences
        assert held <= set(self.backend.sequences)
        for one in self.requests:
            if one.request.sequence is not None:
                assert self.backend.sequence_length(one.request.sequence) == one.request.n_computed

    def teardown(self) -> None:
        if not hasattr(self, "backend"):
            return
        for _ in range(2000):
            if not self.scheduler.busy:
                break
            self.scheduler.step()
        for one in self.requests:
            reason = one.finish.reason
            expected = alone(one.request.prompt, one.request.options, MODEL, n_ctx=N_CTX)
            if reason == "cancelled":
                n_tokens = len(one.request.tokens)
                assert one.request.tokens == expected.request.tokens[:n_tokens]
            else:
                assert one.request.tokens == expected.request.tokens
                assert (reason, one.text) == (expected.finish.reason, expected.text)
        self.scheduler.stop()
        assert self.backend.sequences == ()
        assert self.backend.free_blocks == self.backend.n_blocks
        if self.store is not None:
            self.store.close()
        self.folder.cleanup()


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
