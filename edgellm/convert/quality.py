"""Figures of a receipt, and the quality in a word."""

from __future__ import annotations

from dataclasses import dataclass

from edgellm.errors import size_text

# Most divergence in nats of each word. In llama.cpp's table of Llama 3 8B (tools/perplexity/README.md) Q8_0
# and Q6_K have less than the first, Q4_K_M less than the second, Q3_K_M less than the third, Q2_K more.
WORDS = {"very good": 0.01, "good": 0.05, "fair": 0.15}
# Least cosine similarity of embeddings.
COSINES = {"very good": 0.999, "good": 0.99, "fair": 0.97}


@dataclass(frozen=True, slots=True)
class Quality:
    """The figures of a receipt.

    top1: share of positions where both choose the same token. kld: mean Kullback-Leibler divergence from the
    source's distribution, in nats. For encoders, which have no logits, cosine: the least cosine similarity
    of the embeddings of the sample's lines; the others are 0. kld_error: standard error of kld.
    kld_p99: divergence that 99 % of positions stay below. worst_error: the largest relative error of a
    tensor, root of (weighted) square error over square sum. Of a calibrated file plain_kld is an estimate,
    by a part of the sample, of the divergence that its importances alone give in the usual formats, of the
    recipe plain_type that comes next in size, plain_bytes of tensors.
    """

    n_tokens: int
    top1: float
    kld: float
    perplexity: float
    source_perplexity: float
    cosine: float
    worst_tensor: str
    worst_error: float
    kld_error: float = 0.0
    kld_p99: float = 0.0
    plain_type: str = ""
    plain_bytes: int = 0
    plain_kld: float = 0.0

    def summary(self) -> str:
        """One line for a person, which begins with the quality in a word."""
        worst = (
            f"worst tensor {self.worst_tensor} {100 * self.worst_error:.2f} %" if self.worst_tensor else ""
        )
        if self.cosine:
            figures = f"cosine {self.cosine:.6f}"
        else:
            figures = (
                f"top-1 {100 * self.top1:.1f} %, KLD {self.kld:.4f} ± {self.kld_error:.4f} "
                f"(99 %: {self.kld_p99:.2f}), "
                f"perplexity {self.perplexity:.3f} (source {self.source_perplexity:.3f})"
            )
        found = f"quality {word(self.kld, self.cosine)}: {figures} over {self.n_tokens} tokens"
        plain = f"plain {self.plain_type} ({size_text(self.plain_bytes)}): KLD about {self.plain_kld:.4f}"
        return ", ".join(part for part in (found, plain if self.plain_type else "", worst) if part)


def word(kld: float, cosine: float = 0.0) -> str:
    """Quality in a word, by the divergence, or by the cosine similarity of an encoder."""
    if cosine:
        return next((name for name, least in COSINES.items() if cosine >= least), "poor")
    return next((name for name, most in WORDS.items() if kld <= most), "poor")
