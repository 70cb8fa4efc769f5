"""From logits to a token: penalties, mask, greedy choice or a seeded draw."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from edgellm._native import TokenSampler
from edgellm.errors import ModelError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgellm.backends.base import Logits

NO_TOKENS = array("i")


class Sampled(NamedTuple):
    """A chosen token; where asked for (else NaN and ()), its log probability and the likeliest tokens."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def _number(option: str, value: float, low: float, high: float, expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UsageError(f"{option} is {value!r}; expected {expected}.")


def _count(option: str, value: int, low: int, high: int, expected: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UsageError(f"{option} is {value!r}; expected {expected}.")
    return value


class Sampler:
    """Chooses tokens from rows of logits.

    In this order: logit bias; repeat, presence and frequency penalties over the last `penalty_last_n`
    tokens of the history (-1: all of it, 0: none); the mask. Temperature 0 then takes the largest logit,
    the lowest id among equals. Any other temperature draws from softmax(logits / temperature) over what
    top-k (0: off), top-p and min-p leave of the distribution before temperature. Log probabilities are
    those of the logits as they came: n_probs None: none; 0: the chosen token's; more: the likeliest too.

    The draw of step n depends on (seed, n) alone, so other sequences of a batch cannot change it. `step`
    counts calls of `sample`; setting it back replays. Raises UsageError naming a bad option.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.8,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        penalty_last_n: int = 64,
        seed: int | None = None,
        logit_bias: Mapping[int, float] | None = None,
        n_probs: int | None = None,
    ) -> None:
        self.step = 0
        self.seed = (
            int.from_bytes(os.urandom(8), "little")
            if seed is None
            else _count("seed", seed, 0, 2**64 - 1, "an integer from 0 to 2^64 - 1, or None for a random one")
        )
        _number("temperature", temperature, 0.0, 1e6, "0 (greedy) or more")
        _count("top_k", top_k, 0, 2**31 - 1, "0 (off) or more")
        _number("top_p", top_p, 0.0, 1.0, "a number from 0 to 1 (off)")
        _number("min_p", min_p, 0.0, 1.0, "a number from 0 (off) to 1")
        _number("repeat_penalty", repeat_penalty, 1e-6, 1e6, "a number above 0; 1 is off")
        _number("presence_penalty", presence_penalty, -1e6, 1e6, "a finite number; 0 is off")
        _number("frequency_penalty", frequency_penalty, -1e6, 1e6, "a finite number; 0 is off")
        _count("penalty_last_n", penalty_last_n, -1, 2**31 - 1, "-1 (the whole history), 0 (off) or more")
        bias = list((logit_bias or {}).items())
        for token, value in bias:
            _count("logit_bias", token, 0, 2**31 - 1, "token ids as keys")
            _number(
                f"logit_bias of token {token}", value, -math.inf, 1e30, "a number, or -infinity to forbid"
            )
        if n_probs is not None:
            _count("n_probs", n_probs, 0, 2**31 - 1, "None (off), 0 or more")
        penalties = (repeat_penalty, presence_penalty, frequency_penalty) != (1.0, 0.0, 0.0)
        adjusts = penalties or bias or n_probs is not None
        # How many of the largest logits it looks at; 0: all of them.
        self.n_largest = 0 if adjusts else 1 if temperature == 0.0 else top_k
        self._penalty_last_n = penalty_last_n if penalties else 0
        self._native = TokenSampler(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            logit_bias=bias,
            n_probs=-1 if n_probs is None else n_probs,
        )

    def sample(
        self,
        logits: Logits | NDArray[np.float32],
        history: Sequence[int] = (),
        mask: memoryview | NDArray[np.uint32] | None = None,
    ) -> Sampled:
        """Choose a token from `logits` (n_vocab,) f32.

        history: the tokens so far, oldest first. mask: bit id % 32 of u32 word id // 32 is set where a token
        is allowed; tokens past its end are not. Raises ModelError for logits that are not finite, UsageError
        if no token is allowed or a biased token is not in the vocabulary.
        """
        recent = NO_TOKENS
        if self._penalty_last_n != 0:
            start = 0 if self._penalty_last_n < 0 else max(0, len(history) - self._penalty_last_n)
            recent = array("i", history[start:])
        try:
            token, logprob, top = self._native.sample(logits, recent, mask, self.seed, self.step)
        except FloatingPointError:
            raise ModelError(
                "The model's logits hold NaN or infinity; its weights are damaged or its values overflow."
            ) from None
        except LookupError as error:
            raise UsageError(f"{error}.") from None
        self.step += 1
        return Sampled(token, logprob, tuple(top))
