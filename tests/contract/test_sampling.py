"""The native sampler against the definition of its steps, written in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgellm import _native
from edgellm._native import TokenSampler
from edgellm.engine.sampling import Sampler
from edgellm.engine.sampling_params import SamplingParams
from edgellm.errors import ModelError, UsageError

Array = npt.NDArray[Any]

ISAS: list[str] = _native.usable_isas()
OFF: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}


def logits_of(seed: int, n: int, scale: float = 3.0) -> Array:
    return (np.random.default_rng(seed).standard_normal(n) * scale).astype(np.float32)


def sampler_of(**options: Any) -> Sampler:
    return Sampler(SamplingParams(**options))


def distribution(
    logits: Array,
    *,
    temperature: float = 0.8,
    top_k: int = 40,
    top_p: float = 0.95,
    min_p: float = 0.05,
    repeat_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    penalty_last_n: int = 64,
    logit_bias: dict[int, float] | None = None,
    history: tuple[int, ...] = (),
    mask: Array | None = None,
) -> Array:
    """The probability of each token, in double: the definition."""
    x = logits.astype(np.float64)
    for token, bias in (logit_bias or {}).items():
        x[token] += bias
    recent = history if penalty_last_n < 0 else history[len(history) - min(len(history), penalty_last_n) :]
    for token in set(recent):
        x[token] = x[token] / repeat_penalty if x[token] > 0 else x[token] * repeat_penalty
        x[token] -= presence_penalty + frequency_penalty * recent.count(token)
    if mask is not None:
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")[: len(x)]
        x[np.pad(bits, (0, len(x) - len(bits))) == 0] = -np.inf
    order = np.lexsort((np.arange(len(x)), -x))
    kept = order[: top_k or None]
    if top_p < 1:
        p = np.exp(x[kept] - x.max())
        last = min(int((np.cumsum(p) < top_p * p.sum()).sum()), len(kept) - 1)
        kept = kept[x[kept] >= x[kept[last]]]
    if min_p > 0:
        kept = kept[x[kept] >= x.max() + math.log(min_p)]
    out = np.zeros(len(x))
    if temperature == 0:
        out[order[0]] = 1
    else:
        w = np.exp((x[kept] - x.max()) / temperature)
        out[kept] = w / w.sum()
    return out


def draws(logits: Array, n: int, options: dict[str, Any], **inputs: Any) -> Array:
    sampler = sampler_of(seed=7, **options)
    return np.array([sampler.sample(logits, **inputs).id for _ in range(n)])


def assert_distributed(ids: Array, expected: Array) -> None:
    """Pearson's chi-square; cells of fewer than 5 expected draws are put together. The seed is fixed."""
    counts = np.bincount(ids, minlength=len(expected))
    assert not counts[expected == 0].any()
    mean = expected * len(ids)
    small = mean < 5
    observed = np.append(counts[~small], counts[small].sum())
    mean = np.append(mean[~small], mean[small].sum())
    observed, mean = observed[mean > 0], mean[mean > 0]
    degrees = len(mean) - 1
    if degrees > 0:
        statistic = ((observed - mean) ** 2 / mean).sum()
        # Wilson-Hilferty: the cube root of chi-square is nearly normal; 4 standard deviations.
        z = ((statistic / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees))
        assert z < 4


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 1.5},
        {"top_k": 3},
        {"top_k": 0},
        OFF,
        {**OFF, "temperature": 2.0},
        {**OFF, "top_p": 0.5},
        {**OFF, "top_p": 0.999, "temperature": 0.5},
        {**OFF, "top_p": 1e-9},
        {**OFF, "min_p": 0.2},
        {**OFF, "min_p": 1.0},
        {**OFF, "top_k": 150, "top_p": 0.9},
        {"top_k": 1},
        {"top_k": 100_000, "top_p": 1.0},
        {"logit_bias": {3: 6.0, 5: -math.inf, 200: 2.0}},
    ],
    ids=str,
)
def test_draws_follow_the_distribution(options: dict[str, Any]) -> None:
    logits = logits_of(1, 257)
    assert_distributed(draws(logits, 3000, options), distribution(logits, **options))


@pytest.mark.parametrize("penalty_last_n", [-1, 0, 1, 4, 64])
@pytest.mark.parametrize(
    "penalties",
    [
        {"repeat_penalty": 1.3},
        {"presence_penalty": 2.0},
        {"frequency_penalty": 0.7},
        {"repeat_penalty": 0.5, "presence_penalty": -1.0, "frequency_penalty": 0.2},
    ],
    ids=str,
)
def test_penalties(penalties: dict[str, Any], penalty_last_n: int) -> None:
    logits = logits_of(2, 100)
    likely = [int(i) for i in np.argsort(-logits)[:6]]
    history = (likely[3], likely[0], likely[0], likely[0], likely[1], likely[5], likely[0], likely[2])
    options: dict[str, Any] = {**penalties, "penalty_last_n": penalty_last_n}
    expected = distribution(logits, history=history, **options)
    assert_distributed(draws(logits, 1500, options, history=list(history)), expected)
    assert_distributed(draws(logits, 1500, options, history=np.array(history, np.int32)), expected)


@pytest.mark.parametrize("n_words", [0, 2, 4, 9])
@pytest.mark.parametrize("options", [{}, OFF, {**OFF, "top_p": 0.9}, {"temperature": 0.0}], ids=str)
def test_masks(options: dict[str, Any], n_words: int) -> None:
    logits = logits_of(3, 131)
    mask = np.random.default_rng(4).integers(0, 2**32, n_words, dtype=np.uint32)
    if n_words == 0:
        with pytest.raises(UsageError, match="No token is allowed"):
            sampler_of(**options).sample(logits, mask=mask)
        return
    mask[0], mask[1] = 0xFFFFFFFF, 0
    assert_distributed(draws(logits, 2000, options, mask=mask), distribution(logits, mask=mask, **options))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [1, 5, 64, 65, 1000, 40_003])
@pytest.mark.parametrize(
    "options", [{"top_p": 0.95}, {"top_p": 0.3}, {"top_k": 40}, {"top_k": 5000}, {"min_p": 0.01}]
)
def test_large_vocabularies_keep_what_the_definition_keeps(isa: str, n: int, options: dict[str, Any]) -> None:
    # Half the logits are drawn from few values, so that equals occur.
    logits = logits_of(5, n)
    logits[::2] = np.round(logits[::2] * 4) / 4
    known: dict[str, Any] = {**OFF, **options}
    expected = distribution(logits, temperature=1e6, **known)  # all but even over what is kept
    sampler = TokenSampler(
        temperature=1e6,
        penalties=(1.0, 0.0, 0.0),
        logit_bias=[],
        n_probs=-1,
        isa=isa,
        **known,
    )
    none = np.empty(0, np.int32)
    ids = {sampler.sample(logits, none, None, 11, step)[0] for step in range(150)}
    assert all(expected[i] > 0 for i in ids)
    if (expected > 0).sum() < 20:
        assert ids == set(np.flatnonzero(expected))
    else:
        assert len(ids) > 15
        # Even over the kept: their mean rank is the middle, within 5 standard errors of 150 draws.
        kept = np.flatnonzero(expected)
        ranks = np.searchsorted(kept, [sampler.sample(logits, none, None, 13, s)[0] for s in range(150)])
        assert abs(ranks.mean() / len(kept) - 0.5) < 5 / math.sqrt(12 * 150)


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    logits = logits_of(6, 1000)
    logits[[77, 78, 500]] = 50
    assert sampler_of(temperature=0.0).sample(logits).id == 77
    assert sampler_of(temperature=0.0, logit_bias={78: 0.5}).sample(logits).id == 78


def test_the_seed_decides() -> None:
    logits = logits_of(7, 500, scale=1.0)
    options: dict[str, Any] = {**OFF, "temperature": 1.0}

    def run(seed: int) -> list[int]:
        sampler = sampler_of(seed=seed, **options)
        return [sampler.sample(logits).id for _ in range(20)]

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert run(2**64 - 1) != run(2)
    # These numbers hold on every platform: the generator is SplitMix64, the draw is in order of ids.
    assert run(1)[:5] == [375, 199, 234, 478, 108]
    first, second = sampler_of(**options), sampler_of(**options)
    assert first.seed != second.seed
    replay = sampler_of(seed=first.seed, **options)
    ids = [first.sample(logits).id for _ in range(4)]
    replay.step = 2
    assert [replay.sample(logits).id for _ in range(2)] == ids[2:]


def test_samplers_in_turn_do_not_disturb_each_other() -> None:
    """All samplers of a thread share their scratch memory, with any vocabulary and penalties."""
    kinds = [(500, 1.0), (1000, 1.3), (500, 1.3)]
    options: dict[str, Any] = {**OFF, "temperature": 1.0, "seed": 3}

    def draw(turns: list[int]) -> list[list[int]]:
        samplers = [sampler_of(repeat_penalty=penalty, **options) for _, penalty in kinds]
        drawn: list[list[int]] = [[], [], []]
        for turn in turns:
            logits = logits_of(turn, kinds[turn][0], scale=1.0)
            drawn[turn].append(samplers[turn].sample(logits, [5, 9, *drawn[turn]]).id)
        return drawn

    assert draw([0, 1, 2] * 8) == draw([0] * 8 + [1] * 8 + [2] * 8)


@pytest.mark.parametrize("n_probs", [None, 0, 1, 5, 100])
def test_logprobs_are_those_of_the_logits_as_they_came(n_probs: int | None) -> None:
    logits = logits_of(8, 80)
    logits[13] = -np.inf
    expected = logits - np.log(np.exp(logits.astype(np.float64)).sum())
    order = np.lexsort((np.arange(80), -logits))
    sampler = sampler_of(seed=1, logit_bias={int(order[0]): -math.inf}, logprobs=n_probs)
    sampled = sampler.sample(logits)
    assert sampled.id != order[0]
    if n_probs is None:
        assert math.isnan(sampled.logprob)
        assert sampled.top == ()
        return
    assert sampled.logprob == pytest.approx(expected[sampled.id], abs=2e-6)
    assert [token for token, _ in sampled.top] == list(order[: min(n_probs, 79)])
    np.testing.assert_allclose([p for _, p in sampled.top], expected[order[: min(n_probs, 79)]], atol=2e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [1, 7, 63, 64, 1023, 1025, 5000])
def test_every_instruction_set_finds_the_maximum_and_the_sum(isa: str, n: int) -> None:
    options: dict[str, Any] = {
        "temperature": 0.0,
        "penalties": (1.0, 0.0, 0.0),
        "logit_bias": [],
        "n_probs": 3,
        "isa": isa,
        **OFF,
    }
    for at in {0, n // 3, n - 1}:
        logits = logits_of(n, n)
        logits[at] = 20
        token, logprob, top = TokenSampler(**options).sample(logits, np.empty(0, np.int32), None, 0, 0)
        assert token == at
        assert logprob == pytest.approx(20 - np.log(np.exp(logits.astype(np.float64)).sum()), abs=2e-6)
        assert [i for i, _ in top] == list(np.argsort(-logits, kind="stable")[:3])


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("at", [0, 31, 64, 99])
def test_logits_that_are_not_finite_are_refused(value: float, at: int) -> None:
    logits = logits_of(9, 100)
    logits[at] = value
    choices: list[dict[str, Any]] = [{}, {"temperature": 0.0}]
    for options in choices:
        with pytest.raises(ModelError, match="NaN or infinity"):
            sampler_of(**options).sample(logits)


def test_ids_outside_the_vocabulary_are_refused() -> None:
    logits = logits_of(10, 50)
    with pytest.raises(UsageError, match="logit_bias names token 50; the vocabulary has 50"):
        sampler_of(logit_bias={50: 1.0}).sample(logits)
    for token in (50, -1):
        with pytest.raises(UsageError, match=f"history holds token {token};"):
            sampler_of(repeat_penalty=1.1).sample(logits, [1, token])


def test_everything_forbidden_is_refused() -> None:
    with pytest.raises(UsageError, match="No token is allowed"):
        sampler_of(logit_bias={0: -math.inf, 1: -math.inf}).sample(np.zeros(2, np.float32))


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {},
        {"top_k": 1},
        {"top_k": 7, "top_p": 1.0, "min_p": 0.0, "temperature": 2.0},
        {"top_k": 0},
        {"repeat_penalty": 1.3},
        {"logit_bias": {3: 5.0}},
        {"logprobs": 2},
        {"temperature": 0.0, "presence_penalty": 0.5},
    ],
)
def test_no_more_logits_are_looked_at_than_it_says(options: dict[str, Any]) -> None:
    """Logits below the n largest may have any smaller value, so that a backend need not compute them."""
    for seed in range(40):
        sampler = sampler_of(seed=seed, **options)
        logits = logits_of(seed, 700)
        partial = logits.copy()
        if sampler.n_largest:
            others = np.argsort(-logits, kind="stable")[sampler.n_largest :]
            least = np.nextafter(np.sort(logits)[-sampler.n_largest], np.float32(-np.inf))
            partial[others] = np.minimum(logits[others] + np.float32(seed % 5), least)
        chosen = sampler.sample(logits, (3, 5, 3)).id
        sampler.step = 0
        assert sampler.sample(partial, (3, 5, 3)).id == chosen
    looks_at_all = {"repeat_penalty", "presence_penalty", "logit_bias", "logprobs"} & set(options)
    assert (sampler.n_largest == 0) == (bool(looks_at_all) or options.get("top_k") == 0)
