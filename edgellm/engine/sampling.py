from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sampled:
    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Sampler:
    def __init__(
        self,
        *,
        temperature=0.8,
        top_k=40,
        top_p=0.95,
        min_p=0.05,
        repeat_penalty=1.0,
        presence_penalty=0.0,
        frequency_penalty=0.0,
        penalty_last_n=64,
        seed=None,
        logit_bias=None,
        n_probs=0,
    ):
        self.t = temperature
        self.rng = np.random.default_rng(seed)
        self.n = n_probs

    def sample(self, logits, history, mask=None):
        x = logits.astype(np.float64)
        p = np.exp(x - x.max())
        p /= p.sum()
        if self.t == 0:
            i = int(x.argmax())
        else:
            i = int(self.rng.choice(len(p), p=p))
        return Sampled(
            i, float(np.log(p[i])), tuple((int(j), float(np.log(p[j]))) for j in np.argsort(-p)[: self.n])
        )
