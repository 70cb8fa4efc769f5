"""Speculative decoding: drafts an answer's next tokens and verifies them all in one step.

A step that computes draft tokens beside the answer's last token gives the logits after each of them. The
sampler draws from each row as it would have without a draft, and a draft token is accepted only if it is the
token drawn. So the answers are exactly those without speculation, whatever the options. The verification is
that of Leviathan et al., 2023, https://arxiv.org/abs/2211.17192, with the sampler's own draw in place of
theirs.

The number of draft tokens follows from their gain: the probability that they are accepted, against the
measured cost of larger steps. Without a gain nothing is drafted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgellm.backends.base import Backend, blocks_for
from edgellm.engine.lookup import Lookup, Rate
from edgellm.engine.request import Request, ScheduledTokens

if TYPE_CHECKING:
    from edgellm.engine.draft_model import DraftModel

# Prior cost of drafts, in steps of one token: once for each step, and for each draft token.
EXTRA_COST = 0.1
TOKEN_COST = 0.15
# Weight of that prior in measurements, and the share of a measurement's weight left after the next one.
COST_WEIGHT = 2.0
COST_MEMORY = 0.95
# Cap on a measured step, in multiples of the expected time: other programs may have been busy.
LARGEST_SURPRISE = 3.0
# Prior acceptance rate of a draft model's tokens.
DRAFT_PRIOR = 0.7


class StepCosts:
    """Measured cost of steps: a mean for each number of tokens, and a line for draft tokens beside them."""

    def __init__(self) -> None:
        self._plain: dict[int, float] = {}
        # Weighted sums over steps with n draft tokens that took y seconds longer: 1, n, n^2, y, ny.
        self._sums = [0.0] * 5

    def add(self, n_tokens: int, n_drafted: int, seconds: float) -> None:
        """Count a step of `n_tokens` tokens and `n_drafted` draft tokens that took `seconds`."""
        if seconds <= 0.0:
            return
        size = _rounded(n_tokens)
        plain, first, each = self.expected(n_tokens)
        if n_drafted == 0:
            known = self._plain.get(size, seconds)
            self._plain[size] = known + 0.2 * (min(seconds, LARGEST_SURPRISE * known) - known)
        elif size in self._plain:
            most = LARGEST_SURPRISE * (plain + first + each * n_drafted)
            extra = max(0.0, min(seconds, most) - plain)
            new = (1.0, n_drafted, n_drafted * n_drafted, extra, n_drafted * extra)
            self._sums = [COST_MEMORY * old + value for old, value in zip(self._sums, new, strict=True)]

    def expected(self, n_tokens: int) -> tuple[float, float, float]:
        """Seconds of a step of `n_tokens`, and seconds that drafts add: once, and for each draft token.

        Before the first step the unit is a step of one token.
        """
        first, each = self._line()
        size = _rounded(n_tokens)
        if size in self._plain or not self._plain:
            return self._plain.get(size, 1.0 + each * (n_tokens - 1)), first, each
        nearest = min(self._plain, key=lambda known: abs(known - size))
        plain = self._plain[nearest] + each * (n_tokens - nearest)
        # A step of fewer tokens costs at least its share of the larger one.
        return max(plain, self._plain[nearest] * min(1.0, n_tokens / nearest)), first, each

    def _line(self) -> tuple[float, float]:
        """Line through the seconds that drafts added: least squares, with a prior."""
        unit = 1.0
        if self._plain:
            smallest = min(self._plain)
            unit = self._plain[smallest] / (1.0 + TOKEN_COST * (smallest - 1))
        n, x, xx, y, xy = self._sums
        n, xx = n + COST_WEIGHT, xx + COST_WEIGHT
        y, xy = y + COST_WEIGHT * EXTRA_COST * unit, xy + COST_WEIGHT * TOKEN_COST * unit
        determinant = n * xx - x * x
        return max(0.0, (y * xx - x * xy) / determinant), max(0.0, (n * xy - x * y) / determinant)


def _rounded(n_tokens: int) -> int:
    """Number of tokens in steps of 16 above 16, so that few sizes are told apart."""
    return n_tokens if n_tokens <= 16 else (n_tokens + 8) // 16 * 16


class _Drafter:
    """State of one request: its text, and the acceptance rate of the draft model.

    chances: probability, for each possible draft token, that it and all before it are accepted. by_model:
    True if the draft model is to make the draft.
    """

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self.agreement = Rate(DRAFT_PRIOR)
        self.chances: list[float] = []
        self.by_model = False


class Speculation:
    """Drafts for the requests of one scheduler, at most `draft_max` tokens in a step for each.

    draft: draft model, used where the text itself gives no better draft.
    """

    def __init__(self, backend: Backend, *, draft_max: int, draft: DraftModel | None = None) -> None:
        self._backend = backend
        self._draft_max = min(draft_max, backend.n_undo)
        self._draft = draft
        self._drafters: dict[int, _Drafter] = {}
        self.costs = StepCosts()

    def extend(self, scheduled: Sequence[ScheduledTokens]) -> list[ScheduledTokens]:
        """Add drafts to the scheduled tokens, within the step's budget and the cache's free blocks.

        Raises BackendError if the draft model fails.
        """
        drafters = [self._consider(entry.request) if entry.request.decoding else None for entry in scheduled]
        lengths = self._share_out(scheduled, drafters)
        free = self._backend.free_blocks - sum(self._blocks(entry, 0) for entry in scheduled)
        for i, entry in enumerate(scheduled):
            while self._blocks(entry, lengths[i]) - self._blocks(entry, 0) > free:
                lengths[i] -= 1
            free -= self._blocks(entry, lengths[i]) - self._blocks(entry, 0)
        chosen = [
            (entry.request, drafter, length)
            for entry, drafter, length in zip(scheduled, drafters, lengths, strict=True)
            if drafter is not None and length
        ]
        drafts = {request: drafter.lookup.draft(n) for request, drafter, n in chosen if not drafter.by_model}
        if self._draft is not None:
            drafts |= self._draft.continue_all({r: n for r, drafter, n in chosen if drafter.by_model})
        return [entry._replace(draft=tuple(drafts.get(entry.request, ()))) for entry in scheduled]

    def measure(self, scheduled: Sequence[ScheduledTokens], seconds: float) -> None:
        """Update the cost of steps."""
        n_drafted = sum(len(entry.draft) for entry in scheduled)
        self.costs.add(sum(entry.n_tokens for entry in scheduled), n_drafted, seconds)

    def settle(self, entry: ScheduledTokens, n_right: int) -> None:
        """Update the acceptance rate: the first `n_right` draft tokens were accepted."""
        drafter = self._drafters[entry.request.number]
        if drafter.by_model:
            for i in range(min(n_right + 1, len(entry.draft))):
                drafter.agreement.add(i < n_right)

    def pause(self, request: Request) -> None:
        """Release the draft model's sequence of a preempted request."""
        if self._draft is not None:
            self._draft.release(request)

    def forget(self, request: Request) -> None:
        """Drop the state of a request that has ended."""
        self.pause(request)
        self._drafters.pop(request.number, None)

    def clear(self) -> None:
        """Release every sequence of the draft model."""
        if self._draft is not None:
            self._draft.clear()

    def _consider(self, request: Request) -> _Drafter:
        """The request's drafter, with the chances of the draft that it could make now."""
        drafter = self._drafters.get(request.number)
        if drafter is None:
            drafter = self._drafters[request.number] = _Drafter(Lookup(len(request.prompt)))
        drafter.lookup.extend(request.tokens)
        most = min(self._draft_max, self._backend.n_ctx - len(request.tokens) - 1)
        if request.options.max_tokens is not None:
            most = min(most, request.options.max_tokens - request.n_generated - 1)
        drafter.chances, drafter.by_model = drafter.lookup.chances(most), False
        room = 0 if self._draft is None else self._draft.room(request, most)
        if room > 0:
            drafter.agreement.fade()
            agreement = drafter.agreement.value
            if not drafter.chances or drafter.chances[0] < agreement:
                drafter.chances, drafter.by_model = [agreement ** (i + 1) for i in range(room)], True
        return drafter

    def _share_out(
        self, scheduled: Sequence[ScheduledTokens], drafters: Sequence[_Drafter | None]
    ) -> list[int]:
        """Draft tokens for each entry: the numbers that give the most expected tokens per second."""
        lengths = [0] * len(scheduled)
        n_scheduled = sum(entry.n_tokens for entry in scheduled)
        known = [(i, drafter) for i, drafter in enumerate(drafters) if drafter is not None]
        # Likeliest tokens first. Chances fall along one draft, so its tokens come in order.
        order = sorted(
            ((chance, i, drafter.by_model) for i, drafter in known for chance in drafter.chances),
            reverse=True,
        )
        if not order:
            return lengths
        plain, first, each = self.costs.expected(n_scheduled)
        draft_s = 0.0 if self._draft is None else self._draft.step_s
        expected = float(len(known))
        best, n_best = expected / plain, 0
        n_drafting = 0  # steps of the draft model: the length of its longest draft
        for n, (chance, i, by_model) in enumerate(order[: self._backend.batch - n_scheduled], 1):
            expected += chance
            lengths[i] += 1
            if by_model:
                n_drafting = max(n_drafting, lengths[i])
            rate = expected / (plain + first + each * n + draft_s * n_drafting)
            if rate > best:
                best, n_best = rate, n
        chosen = [i for _, i, _ in order[:n_best]]
        return [chosen.count(i) for i in range(len(scheduled))]

    def _blocks(self, entry: ScheduledTokens, n_drafted: int) -> int:
        return blocks_for(entry.request.n_computed, entry.n_tokens + n_drafted, self._backend.block_tokens)
