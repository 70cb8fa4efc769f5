"""The only generate loop: continuous batching of requests over one backend.

Each step is one call of the backend. It takes the next token of every request that decodes, and fills the
rest of its token budget with chunks of the prompts that are still in prefill. Requests join and leave
between steps. The backend's results do not depend on the batch, so the answers do not either.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from edgellm.backends.base import Backend, Logits, blocks_for, rows_of
from edgellm.engine.prefix_cache import PrefixCache, common_prefix
from edgellm.engine.process import OwnProcess
from edgellm.engine.request import FinishReason, Request, ScheduledTokens
from edgellm.engine.speculation import Speculation
from edgellm.errors import BackendError, ContextOverflowError, OverloadedError, UsageError

if TYPE_CHECKING:
    from edgellm.engine.adapters import Scales
    from edgellm.engine.draft_model import DraftModel
    from edgellm.engine.governor import Governor
    from edgellm.engine.prefix_disk import PrefixDisk

T = TypeVar("T")

# Prefill chunks are small enough that decoding requests wait about this long for their next token.
STALL_S = 0.2
MIN_CHUNK = 8
# Time that a step waits for the disk when it has nothing else to do.
DISK_WAIT_S = 0.01
# Time that `stop` may spend on saving cached sequences for the next start.
SAVE_S = 10.0
# The oldest request in prefill always gets 1/4 of a step's tokens.
OLDEST_DIVISOR = 4


class Scheduler:
    """Runs requests over a backend; `submit` and Request.cancel may be called from any thread.

    eog_ids: tokens that end an answer. n_vocab: size of the vocabulary; logits past it are padding of the
    output matrix and are never sampled (None: no padding). max_active: requests in one step. max_waiting:
    requests queued before submit raises OverloadedError. max_cached: finished sequences kept in the prefix
    cache (0: none). min_shared: fewest tokens that must be saved for a request to wait for another one's
    prefix, or to copy it. draft_max: draft tokens of one request in one step (0: none). draft: the draft
    model. disk: keeps cached sequences beyond this process. governor: rests after steps.
    """

    def __init__(
        self,
        backend: Backend,
        eog_ids: frozenset[int],
        *,
        n_vocab: int | None = None,
        max_active: int = 16,
        max_waiting: int = 256,
        max_cached: int = 32,
        min_shared: int = 64,
        draft_max: int = 0,
        draft: DraftModel | None = None,
        disk: PrefixDisk | None = None,
        governor: Governor | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._backend = backend
        self._eog_ids = eog_ids
        self._n_vocab = backend.n_vocab if n_vocab is None else min(n_vocab, backend.n_vocab)
        self._max_active = min(max_active, backend.batch)
        self._max_waiting = max_waiting
        self._min_shared, self._max_cached = min_shared, max_cached
        self._clock = clock
        self._governor = governor
        can_draft = draft_max > 0 and backend.n_undo > 0
        self._speculation = Speculation(backend, draft_max=draft_max, draft=draft) if can_draft else None
        self._prefixes = PrefixCache(backend, max_cached=max_cached, disk=disk)
        self._waiting: deque[Request] = deque()
        self._active: list[Request] = []  # in order of admission
        self._queue_lock = threading.Lock()  # guards _waiting
        self._process = OwnProcess()
        self._step_lock = threading.RLock()  # guards the backend and everything else
        self._prefill_tok_s: float | None = None

    @property
    def n_active(self) -> int:
        return len(self._active)

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def n_cached_sequences(self) -> int:
        return len(self._prefixes)

    @property
    def speculates(self) -> bool:
        """True if steps verify draft tokens: draft_max is not 0, and the backend can take tokens back."""
        return self._speculation is not None

    @property
    def busy(self) -> bool:
        """True while a request runs or waits, so that another step has work."""
        return bool(self._active or self._waiting)

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises ContextOverflowError if its prompt leaves no room for an answer, UsageError if it is empty, and
        OverloadedError if the queue is full.
        """
        self._process.check()
        n_prompt, n_ctx = len(request.prompt), self._backend.n_ctx
        if n_prompt == 0:
            raise UsageError("The prompt holds no tokens; give at least one.")
        if n_prompt >= n_ctx:
            raise ContextOverflowError(
                f"The prompt is {n_prompt} tokens long and the context holds {n_ctx}; "
                f"shorten the prompt or load the model with a larger context."
            )
        request.submitted_at = self._clock()
        with self._queue_lock:
            if len(self._waiting) >= self._max_waiting:
                raise OverloadedError(
                    f"{len(self._waiting)} requests are already waiting, as many as allowed; try again later."
                )
            self._waiting.append(request)

    def step(self) -> None:
        """Run one step of the backend for all requests that can go on, and rest as the governor says."""
        self._process.check()
        seconds = self._step()
        if self._governor is not None and seconds:
            self._governor.rest(seconds)

    def _step(self) -> float:
        """Seconds that the backend took; 0 if no request could go on."""
        with self._step_lock:
            self._drop_cancelled()
            self._prefixes.poll()
            self._admit()
            scheduled = self._fit(self._schedule())
            if not scheduled:
                self._prefixes.poll(DISK_WAIT_S)
                return 0.0
            try:
                if self._speculation is not None:
                    scheduled = self._speculation.extend(scheduled)
                begin = self._clock()
                logits = rows_of(self._run(scheduled), self._n_vocab)
            except BackendError as error:
                for entry in scheduled:
                    self._finish(entry.request, "error", error)
                return 0.0
            seconds = self._clock() - begin
            self._measure(scheduled, seconds)
            self._advance(scheduled, logits)
            self._prefixes.save_some(idle=False)
            return seconds

    def exclusively(self, n_tokens: int, work: Callable[[Backend], T], *, longest: int | None = None) -> T:
        """Run `work` between steps, with room for `n_tokens` more tokens in the backend's cache.

        longest: tokens of the longest sequence, where they belong to several. Requests are preempted if that
        is needed to make room; they continue afterwards. Raises ContextOverflowError if the cache could never
        hold so many tokens.
        """
        self._process.check()
        block = self._backend.block_tokens
        needed = blocks_for(0, n_tokens, block)
        longest = n_tokens if longest is None else longest
        if longest > self._backend.n_ctx or needed > self._backend.n_blocks:
            raise ContextOverflowError(
                f"The text is {longest} tokens long and the context holds {self._backend.n_ctx}; "
                f"shorten it or load the model with a larger context."
            )
        with self._step_lock:
            while not self._prefixes.make_room(needed) and self._active:
                self._preempt(self._active[-1])
            return work(self._backend)

    def save_some(self) -> bool:
        """While idle, save one piece of a cached sequence to disk; True if more pieces are left."""
        with self._step_lock:
            return not self.busy and self._prefixes.save_some(idle=True)

    def stop(self) -> None:
        """End every request as cancelled and close every sequence; in a forked child: nothing."""
        if self._process.forked:
            return
        with self._step_lock:
            with self._queue_lock:
                for request in self._waiting:
                    request.cancel()
            for request in self._active:
                request.cancel()
            self._drop_cancelled()
            deadline = self._clock() + SAVE_S
            while self._prefixes.save_some(idle=True, wait=True):
                if self._clock() > deadline:
                    import logging  # 2 ms that a start need not take

                    log = logging.getLogger("edgellm.engine")
                    log.warning("the disk is too slow to keep everything for the next start")
                    break
            self._prefixes.clear()
            if self._speculation is not None:
                self._speculation.clear()

    def _drop_cancelled(self) -> None:
        for request in [r for r in self._active if r.cancelled]:
            self._finish(request, "cancelled")
        with self._queue_lock:
            dropped = [r for r in self._waiting if r.cancelled]
            for request in dropped:
                self._waiting.remove(request)
        for request in dropped:
            self._finish(request, "cancelled")

    def _admit(self) -> None:
        """Move waiting requests into the batch, first come first served, while the cache has room."""
        with self._queue_lock:
            waiting = list(self._waiting)
        for request in waiting:
            if len(self._active) == self._max_active:
                return
            if self._awaits_prefix(request) or self._awaits_disk(request):
                continue
            if not self._admit_one(request):
                return

    def _admit_one(self, request: Request) -> bool:
        """Admit a request; False if the cache has no room for it beside the active ones."""
        with self._queue_lock:
            self._waiting.remove(request)
        try:
            start = self._prefixes.acquire(request.tokens, self._live(request.scales), request.scales)
        except BackendError as error:
            self._finish(request, "error", error)
            return True
        # One more block per active request, or this one would be preempted in the next steps.
        n_cached, block = start.n_tokens, self._backend.block_tokens
        needed = blocks_for(n_cached, len(request.tokens) - n_cached, block) + len(self._active)
        if self._active and not self._prefixes.make_room(needed):
            self._prefixes.add(start.sequence, request.tokens[:n_cached], request.scales)
            with self._queue_lock:
                self._waiting.appendleft(request)
            return False
        request.sequence, request.n_computed = start.sequence, n_cached
        if self._prefixes.needs_checkpoints:
            places = {start.n_known, len(request.prompt) - 1}
            request.checkpoints = {place for place in places if place - n_cached >= self._min_shared}
        if request.admitted_at is None:
            request.admitted_at, request.n_cached = self._clock(), n_cached
        self._active.append(request)
        return True

    def _awaits_prefix(self, request: Request) -> bool:
        """True if an active request is computing a prefix of this prompt, so that waiting is cheaper."""
        if self._max_cached == 0:
            return False
        for other in self._active:
            if other.scales != request.scales:
                continue
            n_shared = min(common_prefix(other.prompt_ids, request.prompt_ids), len(request.prompt) - 1)
            if n_shared < self._min_shared or n_shared <= other.n_computed:
                continue
            if not self._prefixes.needs_checkpoints or n_shared in other.checkpoints:
                return True
            if n_shared - other.n_computed >= self._min_shared:
                other.checkpoints.add(n_shared)
                return True
        return False

    def _awaits_disk(self, request: Request) -> bool:
        """True while a prefix of the prompt is on its way from the disk."""
        if request.disk_read is not None:
            return not request.disk_read.done
        if request.on_disk is None:
            request.on_disk = self._prefixes.find_on_disk(request.prompt_ids, request.scales)
        if not request.on_disk:
            return False
        if self._prefixes.reads_disk:
            return True
        live = self._live(request.scales)
        request.disk_read = self._prefixes.read_disk(
            request.on_disk, request.prompt_ids, live, request.scales
        )
        request.on_disk = []
        return request.disk_read is not None

    def _live(self, scales: Scales) -> list[tuple[int, list[int]]]:
        """(sequence, its tokens) of the active requests that use these scales of the adapters."""
        return [
            (r.sequence, r.tokens[: r.n_computed])
            for r in self._active
            if r.sequence is not None and r.scales == scales
        ]

    def _schedule(self) -> list[ScheduledTokens]:
        """Schedule one token for each decoding request; prompts share the rest, the shortest first.

        The oldest prompt always gets 1/OLDEST_DIVISOR, so that shorter ones cannot starve it.
        """
        decoding = [r for r in self._active if r.decoding]
        prefilling = [r for r in self._active if not r.decoding]
        budget = self._backend.batch - len(decoding)
        if decoding:
            affordable = int((self._prefill_tok_s or 0.0) * STALL_S)
            budget = min(budget, max(MIN_CHUNK, affordable))
        counts = dict.fromkeys((r.number for r in prefilling), 0)
        if prefilling:
            counts[prefilling[0].number] = min(prefilling[0].n_until_checkpoint, -(-budget // OLDEST_DIVISOR))
        left = budget - sum(counts.values())
        for request in sorted(prefilling, key=lambda r: r.n_pending):
            more = min(request.n_until_checkpoint - counts[request.number], left)
            counts[request.number] += more
            left -= more
        return [
            ScheduledTokens(r, 1 if r.decoding else counts[r.number])
            for r in self._active
            if r.decoding or counts[r.number]
        ]

    def _fit(self, scheduled: list[ScheduledTokens]) -> list[ScheduledTokens]:
        """Make room in the cache: close cached sequences first, then preempt the youngest requests."""
        block = self._backend.block_tokens
        while scheduled:
            needed = sum(blocks_for(entry.request.n_computed, entry.n_tokens, block) for entry in scheduled)
            if self._prefixes.make_room(needed):
                return scheduled
            if len(self._active) == 1:
                self._finish(
                    self._active[0],
                    "error",
                    BackendError(
                        f"The cache has {self._backend.free_blocks} blocks free of {self._backend.n_blocks} "
                        f"and one request alone needs {needed} more."
                    ),
                )
                return []
            youngest = self._active[-1]
            self._preempt(youngest)
            scheduled = [entry for entry in scheduled if entry.request is not youngest]
        return scheduled

    def _preempt(self, request: Request) -> None:
        """Free a request's blocks and put it at the head of the queue; its tokens are recomputed later."""
        self._active.remove(request)
        if request.sequence is not None:
            self._backend.close_sequence(request.sequence)
        request.sequence, request.n_computed = None, 0
        if self._speculation is not None:
            self._speculation.pause(request)
        with self._queue_lock:
            self._waiting.appendleft(request)

    def _run(self, scheduled: Sequence[ScheduledTokens]) -> Logits:
        tokens: list[int] = []
        sequences: list[int] = []
        outputs: list[bool] = []
        for entry in scheduled:
            request = entry.request
            assert request.sequence is not None
            tokens += request.tokens[request.n_computed : request.n_computed + entry.n_tokens]
            tokens += entry.draft
            n_new = len(tokens) - len(sequences)
            sequences += [request.sequence] * n_new
            outputs += [False] * (n_new - entry.n_logits) + [True] * entry.n_logits
        wanted = [entry.request.n_largest for entry in scheduled if entry.n_logits]
        n_largest = 0 if 0 in wanted else max(wanted, default=0)
        if n_largest > 0:
            n_largest += self._backend.n_vocab - self._n_vocab  # padding may be among the largest
        return self._backend.step(tokens, sequences, outputs, n_largest)

    def _measure(self, scheduled: Sequence[ScheduledTokens], seconds: float) -> None:
        """Update the cost of steps, and the prefill rate from steps that are mostly prefill."""
        if self._speculation is not None:
            self._speculation.measure(scheduled, seconds)
        n_tokens = sum(entry.n_tokens for entry in scheduled)
        if (
            n_tokens >= 4 * sum(entry.request.decoding for entry in scheduled)
            and n_tokens >= MIN_CHUNK
            and seconds > 0
        ):
            rate = n_tokens / seconds
            self._prefill_tok_s = (
                rate if self._prefill_tok_s is None else 0.7 * self._prefill_tok_s + 0.3 * rate
            )

    def _advance(self, scheduled: Sequence[ScheduledTokens], logits: Sequence[Logits]) -> None:
        row = 0
        for entry in scheduled:
            request = entry.request
            n_logits = entry.n_logits
            request.n_computed += entry.n_tokens
            if request.n_computed in request.checkpoints and request.sequence is not None:
                self._prefixes.checkpoint(
                    request.sequence, request.tokens[: request.n_computed], request.scales
                )
            if n_logits:
                self._answer(entry, logits[row : row + n_logits])
                row += n_logits
            elif request.n_pending == 0:
                request.first_token_at = self._clock()
                self._finish(request, "length")

    def _answer(self, entry: ScheduledTokens, logits: Sequence[Logits]) -> None:
        """Sample the next token, and one more after each draft token that equals the sampled one."""
        request, draft = entry.request, entry.draft
        reason: FinishReason | None = None
        failed: Exception | None = None
        n_right = 0
        # Logits that cannot be sampled (NaN, every token forbidden) end their own request and no other.
        try:
            for row, drafted in zip(logits, (*draft, None), strict=True):
                reason = self._sample(request, row)
                if request.tokens[-1] != drafted:
                    break
                n_right += 1
                if reason is not None:
                    break
                request.n_computed += 1
            if draft and request.sequence is not None:
                self._backend.truncate_sequence(request.sequence, request.n_computed)
        except Exception as error:
            reason, failed = "error", error
        request.n_drafted += len(draft)
        request.n_accepted += n_right
        if draft and self._speculation is not None:
            self._speculation.settle(entry, n_right)
        if reason is not None:
            self._finish(request, reason, failed)

    def _sample(self, request: Request, logits: Logits) -> FinishReason | None:
        """Sample a token and add it to the answer; returns the reason if the answer ends there."""
        matcher = request.matcher
        sampled = request.sampler.sample(logits, request.tokens, request.mask())
        if request.first_token_at is None:
            request.first_token_at = self._clock()
        is_eog = sampled.id in self._eog_ids
        if matcher is None:
            ended = is_eog and not request.options.ignore_eos
        else:
            ended = is_eog or matcher.accept(sampled.id)
        request.accept(sampled, silent=is_eog)
        if ended or request.stops.matched is not None:
            return "stop"
        if request.n_generated == request.options.max_tokens:
            return "length"
        return "context" if len(request.tokens) >= self._backend.n_ctx else None

    def _finish(self, request: Request, reason: FinishReason, error: Exception | None = None) -> None:
        """End a request; its sequence goes to the prefix cache unless the backend may have failed on it."""
        if request in self._active:
            self._active.remove(request)
        if self._speculation is not None:
            self._speculation.forget(request)
        if request.sequence is not None:
            if error is None:
                self._prefixes.add(request.sequence, request.tokens[: request.n_computed], request.scales)
            else:
                self._backend.close_sequence(request.sequence)
            request.sequence = None
        request.finish(reason, self._clock(), error)
