"""Rotation frequencies against values worked out by hand and by other formulas."""

from __future__ import annotations

import math

import pytest

from edgellm.program.rope import (
    YarnOptions,
    default_inv_freq,
    linear_inv_freq,
    llama3_factors,
    longrope_mscale,
    ntk_base,
    proportional_factors,
    yarn_inv_freq,
    yarn_mscale,
)


def test_default_and_linear() -> None:
    assert default_inv_freq(4, 10000.0) == pytest.approx((1.0, 0.01), rel=1e-15)
    assert linear_inv_freq(4, 10000.0, 4.0) == pytest.approx((0.25, 0.0025), rel=1e-15)


def test_llama3_keeps_short_waves_and_stretches_long_ones() -> None:
    freqs = default_inv_freq(128, 500000.0)
    factors = llama3_factors(freqs, 8.0, 1.0, 4.0, 8192)
    waves = [2 * math.pi / f for f in freqs]
    assert all(f == 1.0 for f, wave in zip(factors, waves, strict=True) if wave < 2048)
    assert all(f == 8.0 for f, wave in zip(factors, waves, strict=True) if wave > 8192)
    between = [f for f, wave in zip(factors, waves, strict=True) if 2048 <= wave <= 8192]
    assert between
    assert between == sorted(between)
    assert all(1.0 <= f <= 8.0 for f in between)


def test_yarn_keeps_the_fastest_pairs_and_divides_the_slowest() -> None:
    base = default_inv_freq(64, 10000.0)
    stretched = yarn_inv_freq(64, 10000.0, YarnOptions(factor=4.0, n_ctx_original=2048))
    ratios = [b / s for b, s in zip(base, stretched, strict=True)]
    assert ratios[0] == 1.0
    assert ratios[-1] == pytest.approx(4.0)
    assert ratios == sorted(ratios)
    # 32 and 1 turns over 2048 tokens fall on pairs 8.06 and 20.1; rounded outwards to 8 and 21.
    assert [i for i, r in enumerate(ratios) if r == 1.0] == list(range(9))
    assert ratios[20] < 4.0
    assert ratios[21] == pytest.approx(4.0)


def test_yarn_without_rounding_differs_between_the_bounds_only() -> None:
    rounded = yarn_inv_freq(64, 150000.0, YarnOptions(8.0, 4096))
    exact = yarn_inv_freq(64, 150000.0, YarnOptions(8.0, 4096, truncate=False))
    assert rounded[0] == exact[0]
    assert rounded[-1] == exact[-1]
    assert rounded != exact


def test_attention_scales() -> None:
    assert yarn_mscale(1.0) == 1.0
    assert yarn_mscale(8.0) == pytest.approx(1 + 0.1 * math.log(8))
    assert yarn_mscale(40.0, 0.707) == pytest.approx(1 + 0.0707 * math.log(40))
    assert longrope_mscale(4096, 4096) == 1.0
    assert longrope_mscale(131072, 4096) == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))


def test_ntk_base_stretches_the_slowest_pair_by_alpha() -> None:
    slow = default_inv_freq(128, 10000.0)[-1] / default_inv_freq(128, ntk_base(128, 10000.0, 1000.0))[-1]
    assert slow == pytest.approx(1000.0)


def test_proportional_rotation_stops_after_its_share() -> None:
    assert proportional_factors(16, 0.25) == (1.0, 1.0, *(1e30,) * 6)
