from __future__ import annotations

import numpy as np
import pytest

from edgellm.convert.receipt import Divergence
from edgellm.errors import ModelError


@pytest.mark.parametrize("n_tokens", [1, 2, 3, 17, 32])
def test_figures_are_those_of_the_distributions(n_tokens: int) -> None:
    rng = np.random.default_rng(n_tokens)
    before = rng.normal(0, 3, (n_tokens, 50)).astype(np.float32)
    after = before + rng.normal(0, 0.3, before.shape).astype(np.float32)
    ids = rng.integers(0, 50, n_tokens).tolist()
    found = Divergence()
    found.add(before, after, ids)
    p, q = (np.exp(logits.astype(np.float64)) for logits in (before, after))
    p, q = p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.positions, (p * np.log(p / q)).sum(axis=1), rtol=1e-9)
    assert found.top1 == (p.argmax(axis=1) == q.argmax(axis=1)).mean()
    scored = np.arange(n_tokens - 1), np.array(ids[1:], np.int64)
    losses = [-np.log(each[scored]).sum() / max(1, n_tokens - 1) for each in (p, q)]
    np.testing.assert_allclose(found.losses, losses, rtol=1e-9)


def test_logits_that_are_not_finite_are_refused() -> None:
    logits = np.zeros((2, 3), np.float32)
    with pytest.raises(ModelError, match="not finite"):
        Divergence().add(logits, logits + np.float32(np.inf), [0, 1])
