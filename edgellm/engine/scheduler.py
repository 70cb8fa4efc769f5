"""The only generate loop: continuous batching of requests over one backend.

Every step is one call of the backend. It carries the next token of each answer under way and, in what is
left of the step's token budget, parts of the prompts still being read. Requests join and leave between
steps. Because the backend's results do not depend on the batch, neither do the answers.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from edgellm.backends.base import Backend, Logits, blocks_for, rows_of
from edgellm.engine.prefix_cache import PrefixCache, common_prefix
from edgellm.engine.request import FinishReason, Grant, Request
from edgellm.engine.speculation import Speculation
from edgellm.errors import BackendError, ContextOverflowError, OverloadedError, UsageError

if TYPE_CHECKING:
    from edgellm.engine.adapters import Scales
    from edgellm.engine.draft_model import DraftModel
    from edgellm.engine.prefix_disk import PrefixDisk

T = TypeVar("T")

# Prompts are read in parts small enough that answers under way wait about this long for their next token.
STALL_S = 0.2
MIN_CHUNK = 8
# How long a step waits for the disk if nothing else is to be done.
DISK_WAIT_S = 0.01
# How long the end is put off so that what was computed is there at the next start.
SAVE_S = 10.0
# The part of a prompt that the oldest request may always read, whatever shorter prompts wait beside it.
OLDEST_SHARE = 4


class Scheduler:
    """Runs requests over a backend; `submit` and Request.cancel may be called from any thread.

    eog_ids: the tokens that end an answer. n_vocab: the tokens that there are; logits past them are a
    matrix's padding, and nothing is chosen among them (None: all logits are tokens'). max_active: requests in
    one step. max_waiting: requests queued before submit raises OverloadedError. max_parked: finished
    sequences kept for their prefix (0: none).
    min_shared: waiting for another request's prefix, or copying it, must save this many tokens.
    draft_max: tokens that one step may guess ahead for one request (0: none). draft: a model to ask for them.
    disk: where finished sequences are kept, too.
    """

    def __init__(
        self,
        backend: Backend,
        eog_ids: frozenset[int],
        *,
        n_vocab: int | None = None,
        max_active: int = 16,
        max_waiting: int = 256,
        max_parked: int = 32,
        min_shared: int = 64,
        draft_max: int = 0,
        draft: DraftModel | None = None,
        disk: PrefixDisk | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._backend = backend
        self._eog_ids = eog_ids
        self._n_vocab = backend.n_vocab if n_vocab is None else min(n_vocab, backend.n_vocab)
        self._max_active = min(max_active, backend.batch)
        self._max_waiting = max_waiting
        self._min_shared, self._max_parked = min_shared, max_parked
        self._clock = clock
        can_guess = draft_max > 0 and backend.n_undo > 0
        self._speculation = Speculation(backend, draft_max=draft_max, draft=draft) if can_guess else None
        self._prefixes = PrefixCache(backend, max_parked=max_parked, disk=disk)
        self._waiting: deque[Request] = deque()
        self._active: list[Request] = []  # in order of admission
        self._queue_lock = threading.Lock()  # guards _waiting
        self._step_lock = threading.RLock()  # guards the backend and everything else
        self._prefill_tok_s: float | None = None

    @property
    def n_active(self) -> int:
        return len(self._active)

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def n_parked(self) -> int:
        return len(self._prefixes)

    @property
    def speculates(self) -> bool:
        """Whether tokens are guessed ahead: asked for, and possible with this backend."""
        return self._speculation is not None

    @property
    def busy(self) -> bool:
        """Whether another step has anything to do."""
        return bool(self._active or self._waiting)

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises ContextOverflowError if its prompt leaves no room for an answer, UsageError if it is empty, and
        OverloadedError if the queue is full.
        """
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
        """Advance every request that can be advanced by one call of the backend."""
        with self._step_lock:
            self._drop_cancelled()
            self._prefixes.go_on()
            self._admit()
            grants = self._fit(self._share_budget())
            if not grants:
                self._prefixes.go_on(DISK_WAIT_S)
                return
            try:
                if self._speculation is not None:
                    grants = self._speculation.extend(grants)
                begin = self._clock()
                logits = rows_of(self._run(grants), self._n_vocab)
            except BackendError as error:
                for grant in grants:
                    self._finish(grant.request, "error", error)
                return
            self._measure(grants, self._clock() - begin)
            self._advance(grants, logits)
            self._prefixes.save_some(idle=False)

    def exclusively(self, n_tokens: int, work: Callable[[Backend], T]) -> T:
        """Run `work` between steps, with room for `n_tokens` more tokens in the backend's cache.

        Requests may be set back to make that room; they continue afterwards. Raises ContextOverflowError if
        the cache could never hold so many.
        """
        block = self._backend.block_tokens
        needed = blocks_for(0, n_tokens, block)
        if n_tokens > self._backend.n_ctx or needed > self._backend.n_blocks:
            raise ContextOverflowError(
                f"The text is {n_tokens} tokens long and the context holds {self._backend.n_ctx}; "
                f"shorten it or load the model with a larger context."
            )
        with self._step_lock:
            while not self._prefixes.make_room(needed) and self._active:
                self._set_back(self._active[-1])
            return work(self._backend)

    def save_some(self) -> bool:
        """Save a part of what is worth keeping if there is nothing else to do; whether there may be more."""
        with self._step_lock:
            return not self.busy and self._prefixes.save_some(idle=True)

    def stop(self) -> None:
        """End every request as cancelled and close every sequence."""
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
            if self._awaits_prefix(request) or self._awaits_recall(request):
                continue
            if not self._admit_one(request):
                return

    def _admit_one(self, request: Request) -> bool:
        """Give a request its place; False if the cache has no room for it beside those under way."""
        with self._queue_lock:
            self._waiting.remove(request)
        try:
            start = self._prefixes.acquire(request.tokens, self._live(request.scales), request.scales)
        except BackendError as error:
            self._finish(request, "error", error)
            return True
        # One more block per answer under way, so that admitting this one does not set it back at once.
        n_cached, block = start.n_tokens, self._backend.block_tokens
        needed = blocks_for(n_cached, len(request.tokens) - n_cached, block) + len(self._active)
        if self._active and not self._prefixes.make_room(needed):
            self._prefixes.park(start.sequence, request.tokens[:n_cached], request.scales)
            with self._queue_lock:
                self._waiting.appendleft(request)
            return False
        request.sequence, request.fed = start.sequence, n_cached
        if self._prefixes.forgets:
            places = {start.n_known, len(request.prompt) - 1}
            request.checkpoints = {place for place in places if place - n_cached >= self._min_shared}
        if request.admitted_at is None:
            request.admitted_at, request.n_cached = self._clock(), n_cached
        self._active.append(request)
        return True

    def _awaits_prefix(self, request: Request) -> bool:
        """Whether another request is reading what this prompt begins with, so that waiting is cheaper."""
        if self._max_parked == 0:
            return False
        for other in self._active:
            if other.scales != request.scales:
                continue
            n_shared = min(common_prefix(other.prompt_ids, request.prompt_ids), len(request.prompt) - 1)
            if n_shared < self._min_shared or n_shared <= other.fed:
                continue
            if not self._prefixes.forgets or n_shared in other.checkpoints:
                return True
            if n_shared - other.fed >= self._min_shared:
                other.checkpoints.add(n_shared)
                return True
        return False

    def _awaits_recall(self, request: Request) -> bool:
        """Whether the disk knows the prompt's beginning and has yet to bring it."""
        if request.recall is not None:
            return not request.recall.done
        if request.kept is None:
            request.kept = self._prefixes.kept(request.prompt_ids, request.scales)
        if not request.kept:
            return False
        if self._prefixes.recalling:
            return True
        live = self._live(request.scales)
        request.recall = self._prefixes.recall(request.kept, request.prompt_ids, live, request.scales)
        request.kept = []
        return request.recall is not None

    def _live(self, scales: Scales) -> list[tuple[int, list[int]]]:
        """The sequences in use with these scales of the adapters, and the tokens that they hold."""
        return [
            (r.sequence, r.tokens[: r.fed])
            for r in self._active
            if r.sequence is not None and r.scales == scales
        ]

    def _share_budget(self) -> list[Grant]:
        """One token for every answer under way; prompts share the rest, the shortest first.

        The oldest prompt always gets a part, so that shorter ones cannot starve it.
        """
        decoding = [r for r in self._active if r.decoding]
        reading = [r for r in self._active if not r.decoding]
        budget = self._backend.batch - len(decoding)
        if decoding:
            affordable = int((self._prefill_tok_s or 0.0) * STALL_S)
            budget = min(budget, max(MIN_CHUNK, affordable))
        granted = dict.fromkeys((r.number for r in reading), 0)
        if reading:
            granted[reading[0].number] = min(reading[0].n_until_stop, -(-budget // OLDEST_SHARE))
        left = budget - sum(granted.values())
        for request in sorted(reading, key=lambda r: r.n_pending):
            more = min(request.n_until_stop - granted[request.number], left)
            granted[request.number] += more
            left -= more
        return [
            Grant(r, 1 if r.decoding else granted[r.number])
            for r in self._active
            if r.decoding or granted[r.number]
        ]

    def _fit(self, grants: list[Grant]) -> list[Grant]:
        """Make room in the cache for these grants: parked sequences go first, then the youngest requests."""
        block = self._backend.block_tokens
        while grants:
            needed = sum(blocks_for(g.request.fed, g.n_tokens, block) for g in grants)
            if self._prefixes.make_room(needed):
                return grants
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
            self._set_back(youngest)
            grants = [g for g in grants if g.request is not youngest]
        return grants

    def _set_back(self, request: Request) -> None:
        """Give up a request's blocks; it waits at the head of the queue and is computed again later."""
        self._active.remove(request)
        if request.sequence is not None:
            self._backend.close_sequence(request.sequence)
        request.sequence, request.fed = None, 0
        if self._speculation is not None:
            self._speculation.pause(request)
        with self._queue_lock:
            self._waiting.appendleft(request)

    def _run(self, grants: Sequence[Grant]) -> Logits:
        tokens: list[int] = []
        sequences: list[int] = []
        outputs: list[bool] = []
        for grant in grants:
            request = grant.request
            assert request.sequence is not None
            tokens += request.tokens[request.fed : request.fed + grant.n_tokens]
            tokens += grant.guess
            n_new = len(tokens) - len(sequences)
            sequences += [request.sequence] * n_new
            outputs += [False] * (n_new - grant.n_logits) + [True] * grant.n_logits
        wanted = [grant.request.n_largest for grant in grants if grant.n_logits]
        n_largest = 0 if 0 in wanted else max(wanted, default=0)
        if n_largest > 0:
            n_largest += self._backend.n_vocab - self._n_vocab  # padding may be among them
        return self._backend.step(tokens, sequences, outputs, n_largest)

    def _measure(self, grants: Sequence[Grant], seconds: float) -> None:
        """Learn what steps cost; how fast prompts are read, from the steps that mostly did that."""
        if self._speculation is not None:
            self._speculation.measure(grants, seconds)
        n_tokens = sum(g.n_tokens for g in grants)
        if n_tokens >= 4 * sum(g.request.decoding for g in grants) and n_tokens >= MIN_CHUNK and seconds > 0:
            rate = n_tokens / seconds
            self._prefill_tok_s = (
                rate if self._prefill_tok_s is None else 0.7 * self._prefill_tok_s + 0.3 * rate
            )

    def _advance(self, grants: Sequence[Grant], logits: Sequence[Logits]) -> None:
        row = 0
        for grant in grants:
            request = grant.request
            n_logits = grant.n_logits
            request.fed += grant.n_tokens
            if request.fed in request.checkpoints and request.sequence is not None:
                self._prefixes.checkpoint(request.sequence, request.tokens[: request.fed], request.scales)
            if n_logits:
                self._answer(grant, logits[row : row + n_logits])
                row += n_logits
            elif request.n_pending == 0:
                request.first_token_at = self._clock()
                self._finish(request, "length")

    def _answer(self, grant: Grant, logits: Sequence[Logits]) -> None:
        """Sample the next token, and one more for each guessed token that is the one sampled."""
        request, guess = grant.request, grant.guess
        reason: FinishReason | None = None
        failed: Exception | None = None
        n_right = 0
        # Logits that cannot be sampled from (NaN, all forbidden) must end their request and no other.
        try:
            for row, guessed in zip(logits, (*guess, None), strict=True):
                reason = self._sample(request, row)
                if request.tokens[-1] != guessed:
                    break
                n_right += 1
                if reason is not None:
                    break
                request.fed += 1
            if guess and request.sequence is not None:
                self._backend.truncate_sequence(request.sequence, request.fed)
        except Exception as error:
            reason, failed = "error", error
        request.n_drafted += len(guess)
        request.n_accepted += n_right
        if guess and self._speculation is not None:
            self._speculation.settle(grant, n_right)
        if reason is not None:
            self._finish(request, reason, failed)

    def _sample(self, request: Request, logits: Logits) -> FinishReason | None:
        """Add a token to the answer; the reason if it ends there."""
        matcher = request.matcher
        sampled = request.sampler.sample(logits, request.tokens, None if matcher is None else matcher.mask())
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
        """End a request; what it computed stays in the cache unless the backend may have failed on it."""
        if request in self._active:
            self._active.remove(request)
        if self._speculation is not None:
            self._speculation.forget(request)
        if request.sequence is not None:
            if error is None:
                self._prefixes.park(request.sequence, request.tokens[: request.fed], request.scales)
            else:
                self._backend.close_sequence(request.sequence)
            request.sequence = None
        request.finish(reason, self._clock(), error)
