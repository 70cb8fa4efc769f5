"""Rotation frequencies for every kind of RoPE scaling, in float64 without NumPy.

Each function returns inverse frequencies (radians per position, one for each rotated pair), or the factors
that divide them. A method's scale of cosine and sine has a function of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class YarnOptions(NamedTuple):
    """YaRN's parameters under the paper's names (arXiv 2309.00071), with the usual defaults."""

    factor: float
    n_ctx_original: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


def default_inv_freq(n_dims: int, base: float) -> tuple[float, ...]:
    """base^(-2i/n_dims) for i < n_dims / 2 (arXiv 2104.09864)."""
    return tuple(base ** (-i / n_dims) for i in range(0, n_dims, 2))


def linear_inv_freq(n_dims: int, base: float, factor: float) -> tuple[float, ...]:
    """Position interpolation: all frequencies divided by `factor` (arXiv 2306.15595)."""
    return tuple(f / factor for f in default_inv_freq(n_dims, base))


def ntk_base(n_dims: int, base: float, alpha: float) -> float:
    """NTK-aware scaling: the base that scales the slowest pair by `alpha` and the fastest not at all."""
    return float(base * alpha ** (n_dims / (n_dims - 2)))


def proportional_factors(n_dims: int, share: float) -> tuple[float, ...]:
    """Divisors that rotate only the first `share` of the pairs: 1, then a number too large for a rotation."""
    n_rotated = int(share * n_dims // 2)
    return tuple(1.0 if i < n_rotated else 1e30 for i in range(n_dims // 2))


def llama3_factors(
    inv_freq: Sequence[float],
    factor: float,
    low_freq_factor: float,
    high_freq_factor: float,
    n_ctx_original: int,
) -> tuple[float, ...]:
    """Divisors of Llama 3.1: 1 for short wavelengths, `factor` for long ones, smooth between them."""
    factors = []
    for f in inv_freq:
        wavelength = 2 * math.pi / f
        if wavelength < n_ctx_original / high_freq_factor:
            factors.append(1.0)
        elif wavelength > n_ctx_original / low_freq_factor:
            factors.append(factor)
        else:
            smooth = (n_ctx_original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return tuple(factors)


def yarn_inv_freq(n_dims: int, base: float, options: YarnOptions) -> tuple[float, ...]:
    """NTK by parts: pairs that turn often keep their frequency, slow ones are interpolated."""

    def pair_of(turns: float) -> float:
        return n_dims * math.log(options.n_ctx_original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_of(options.beta_fast), pair_of(options.beta_slow)
    if options.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0.0), min(high, n_dims - 1.0)
    span = max(high - low, 0.001)
    out = []
    for i, f in enumerate(default_inv_freq(n_dims, base)):
        keep = 1 - min(max((i - low) / span, 0.0), 1.0)
        out.append(f * keep + f / options.factor * (1 - keep))
    return tuple(out)


def yarn_mscale(factor: float, multiplier: float = 1.0) -> float:
    """Attention temperature of YaRN: 0.1 * multiplier * ln(factor) + 1 for a factor above 1."""
    return 1.0 if factor <= 1 else 0.1 * multiplier * math.log(factor) + 1.0


def longrope_mscale(n_ctx_train: int, n_ctx_original: int) -> float:
    """Attention temperature of LongRoPE: sqrt(1 + ln(stretch) / ln(original)) (arXiv 2402.13753)."""
    stretch = n_ctx_train / n_ctx_original
    return 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(n_ctx_original))
