"""Sampling: from logits to a token, by penalties, mask, and greedy choice or a seeded draw."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from edgellm._native import TokenSampler
from edgellm.engine.sampling_params import SamplingParams
from edgellm.errors import ModelError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgellm.backends.base import Logits

NO_TOKENS = array("i")


class Sampled(NamedTuple):
    """A sampled token; with logprobs (else NaN and ()), its log probability and the likeliest tokens."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Sampler:
    """Chooses tokens from rows of logits.

    In this order: logit bias; repeat, presence and frequency penalties over the last `penalty_last_n`
    tokens of the history (-1: all of it, 0: none); the mask. Temperature 0 then takes the largest logit,
    the lowest id among equals. Any other temperature draws from softmax(logits / temperature) over the
    tokens that top-k (0: off), top-p and min-p keep of the distribution before temperature. Log
    probabilities are those of the unchanged logits.

    The draw of step n depends on (seed, n) alone, so other sequences of a batch cannot change it. `step`
    counts calls of `sample`; setting it to an earlier value replays.
    """

    def __init__(self, params: SamplingParams) -> None:
        self.step = 0
        self.seed = int.from_bytes(os.urandom(8), "little") if params.seed is None else params.seed
        bias = list(params.logit_bias.items())
        adjusts = params.penalizes or bias or params.logprobs is not None
        # Number of the largest logits that `sample` reads; 0: all of them.
        self.n_largest = 0 if adjusts else 1 if params.temperature == 0.0 else params.top_k
        self._penalty_last_n = params.penalty_last_n if params.penalizes else 0
        self._native = TokenSampler(
            temperature=params.temperature,
            top_k=params.top_k,
            top_p=params.top_p,
            min_p=params.min_p,
            penalties=(params.repeat_penalty, params.presence_penalty, params.frequency_penalty),
            logit_bias=bias,
            n_probs=-1 if params.logprobs is None else params.logprobs,
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
