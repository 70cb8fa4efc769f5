"""Speculation: guesses an answer's next tokens and has one step check them all.

A step that feeds a guess beside the answer's last token computes the logits after each of its tokens. Every
one is sampled from as it would have been alone, and a guessed token counts only if it is the one that was
sampled. So answers are exactly those without speculation, whatever the options (the checking step is that of
Leviathan et al., 2023, https://arxiv.org/abs/2211.17192, with the sampler's own draw in place of theirs).

How much is guessed follows from what it gains: the chances that the guesses are right, against what steps of
each size have been seen to cost. Where nothing is gained nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgellm.backends.base import Backend, blocks_for
from edgellm.engine.lookup import Lookup, Rate
from edgellm.engine.request import Request, ScheduledTokens

if TYPE_CHECKING:
    from edgellm.engine.draft_model import DraftModel

# What a step with guesses is taken to cost above one without, in steps, until it has been measured.
EXTRA_COST = 0.1
TOKEN_COST = 0.15
# How many measurements that is worth, and how much of a measurement's weight is left after the next one.
COST_WEIGHT = 2.0
COST_MEMORY = 0.95
# A step is counted as at most this many times what was expected: the machine may have been busy otherwise.
LARGEST_SURPRISE = 3.0
# The chance that a draft model's token is right, until it has shown its own.
DRAFT_PRIOR = 0.7


class StepCosts:
    """What steps cost: a mean for each number of tokens, and a line for the guessed tokens beside them."""

    def __init__(self) -> None:
        self._plain: dict[int, float] = {}
        # Weighted sums over the steps with n guessed tokens that took y seconds longer: 1, n, n^2, y, ny.
        self._sums = [0.0] * 5

    def add(self, n_tokens: int, n_drafted: int, seconds: float) -> None:
        """Count a step of `n_tokens` and `n_drafted` more that took `seconds`."""
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
        """Seconds of a step of `n_tokens`, and what a guess adds: once, and for each of its tokens.

        Until a step has been seen, the unit is a step of one token.
        """
        first, each = self._line()
        size = _rounded(n_tokens)
        if size in self._plain or not self._plain:
            return self._plain.get(size, 1.0 + each * (n_tokens - 1)), first, each
        nearest = min(self._plain, key=lambda known: abs(known - size))
        plain = self._plain[nearest] + each * (n_tokens - nearest)
        # A part of a step costs at least its part of the step's time.
        return max(plain, self._plain[nearest] * min(1.0, n_tokens / nearest)), first, each

    def _line(self) -> tuple[float, float]:
        """The line through what guesses were seen to add: least squares, with a prior."""
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
    """Steps of many tokens are told apart only roughly."""
    return n_tokens if n_tokens <= 16 else (n_tokens + 8) // 16 * 16


class _Drafter:
    """What is known about one request: its text, and how often the draft model has been right.

    chances: of each token of the guess that could be made now, to be right with all before it. by_model:
    whether the draft model would make it.
    """

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self.agreement = Rate(DRAFT_PRIOR)
        self.chances: list[float] = []
        self.by_model = False


class Speculation:
    """Guesses for the requests of one scheduler, at most `draft_max` tokens at once for each.

    draft: the model to ask where the text itself has no better guess.
    """

    def __init__(self, backend: Backend, *, draft_max: int, draft: DraftModel | None = None) -> None:
        self._backend = backend
        self._draft_max = min(draft_max, backend.n_undo)
        self._draft = draft
        self._drafters: dict[int, _Drafter] = {}
        self.costs = StepCosts()

    def extend(self, scheduled: Sequence[ScheduledTokens]) -> list[ScheduledTokens]:
        """The scheduled with guesses, within what is left of the step's tokens and the cache's free blocks.

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
        """Learn from what a step with these scheduled took."""
        n_drafted = sum(len(entry.draft) for entry in scheduled)
        self.costs.add(sum(entry.n_tokens for entry in scheduled), n_drafted, seconds)

    def settle(self, entry: ScheduledTokens, n_right: int) -> None:
        """Learn that the first `n_right` tokens of a guess were right, and the next was not."""
        drafter = self._drafters[entry.request.number]
        if drafter.by_model:
            for i in range(min(n_right + 1, len(entry.draft))):
                drafter.agreement.add(i < n_right)

    def pause(self, request: Request) -> None:
        """Let go of what the draft model holds of a request that is set back."""
        if self._draft is not None:
            self._draft.release(request)

    def forget(self, request: Request) -> None:
        """Let go of what is known about a request that has ended."""
        self.pause(request)
        self._drafters.pop(request.number, None)

    def clear(self) -> None:
        """Let go of everything that the draft model holds."""
        if self._draft is not None:
            self._draft.clear()

    def _consider(self, request: Request) -> _Drafter:
        """The request's drafter, with the guess that it could make now."""
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
        """How many tokens to guess for each entry: what makes the step yield the most tokens a second."""
        lengths = [0] * len(scheduled)
        n_scheduled = sum(entry.n_tokens for entry in scheduled)
        known = [(i, drafter) for i, drafter in enumerate(drafters) if drafter is not None]
        # The likeliest tokens first; along one guess the chances fall, so its tokens come in order.
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
        n_drafting = 0  # steps of the draft model: as many as the longest of its guesses has tokens
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
