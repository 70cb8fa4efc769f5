"""Prompt lookup: drafts an answer's next tokens from the tokens that followed the same ones earlier.

The idea is prompt lookup decoding (Saxena, 2023, https://github.com/apoorvumang/prompt-lookup-decoding). Here
the index grows with the text, and a match is followed as long as it holds. The acceptance rate of matches of
each length is learned from every token of the answer, drafted or not.
"""

from __future__ import annotations

from collections.abc import Sequence

# Weight of a rate's prior in observations, and weight of an observation relative to the next one.
PRIOR_WEIGHT = 2.0
MEMORY = 0.95
# Prior probability that the next token continues a match, by the bit length of the number of matched tokens:
# 1, 2 to 3, 4 to 7, 8 to 15, 16 and more.
PRIORS = (0.0, 0.2, 0.5, 0.7, 0.85, 0.95)
# Longest length of a match that is counted when it is found.
LONGEST = 16


class Rate:
    """Exponentially weighted rate of successes; `prior` before the first observation."""

    __slots__ = ("_hits", "_n", "_prior")

    def __init__(self, prior: float) -> None:
        self._prior = prior
        self._hits = self._n = 0.0

    @property
    def value(self) -> float:
        return (self._hits + PRIOR_WEIGHT * self._prior) / (self._n + PRIOR_WEIGHT)

    def add(self, held: bool) -> None:
        """Count one observation."""
        self.fade()
        self._hits += held
        self._n += 1.0

    def fade(self) -> None:
        """Reduce the weight of past observations, so that in the end the prior is tried again."""
        self._hits *= MEMORY
        self._n *= MEMORY


class Lookup:
    """The text of one request, prompt and answer, indexed by its pairs of tokens.

    n_prompt: tokens from which no acceptance rate is learned. The cost of a token is some microseconds,
    independent of the length of the text.
    """

    def __init__(self, n_prompt: int) -> None:
        self._n_prompt = n_prompt
        self._tokens: list[int] = []
        self._follower: dict[tuple[int, int], int] = {}  # position of the latest token after each pair
        self._rates = [Rate(prior) for prior in PRIORS]
        self._next = -1  # position of the draft in the text; -1: no match
        self._matched = 0  # length of the match before it

    def extend(self, tokens: Sequence[int]) -> None:
        """Index the tokens by which `tokens`, the request's whole text, has grown."""
        for token in tokens[len(self._tokens) :]:
            self._push(token)

    def chances(self, most: int) -> list[float]:
        """Probability, for each of the next tokens up to `most`, that the draft is right up to it."""
        chances: list[float] = []
        if self._next >= 0:
            chance = 1.0
            for matched in range(self._matched, self._matched + most):
                chance *= self._rate(matched).value
                chances.append(chance)
        return chances

    def draft(self, n_tokens: int) -> list[int]:
        """Next tokens if the match goes on; a match that reaches the end of the text repeats itself."""
        drafted: list[int] = []
        n_known = len(self._tokens)
        for place in range(self._next, self._next + n_tokens):
            drafted.append(self._tokens[place] if place < n_known else drafted[place - n_known])
        return drafted

    def _rate(self, matched: int) -> Rate:
        return self._rates[min(matched.bit_length(), len(PRIORS) - 1)]

    def _push(self, token: int) -> None:
        tokens = self._tokens
        holds = self._next >= 0 and tokens[self._next] == token
        if self._next >= 0 and len(tokens) >= self._n_prompt:
            self._rate(self._matched).add(holds)
        # A pair is indexed with the token after it, so that the end of the text never matches itself.
        if len(tokens) >= 2:
            self._follower[tokens[-2], tokens[-1]] = len(tokens)
        tokens.append(token)
        if holds:
            self._next += 1
            self._matched += 1
        elif len(tokens) >= max(2, self._n_prompt):
            self._find()

    def _find(self) -> None:
        """Match the end of the text with the latest earlier position that ends in the same two tokens."""
        tokens = self._tokens
        found = self._follower.get((tokens[-2], tokens[-1]))
        if found is None:
            self._next, self._matched = -1, 0
            return
        matched = 2
        while matched < min(LONGEST, found) and tokens[found - matched - 1] == tokens[-matched - 1]:
            matched += 1
        self._next, self._matched = found, matched
