"""EmbeddingGemma: Gemma 3's layers over the whole text, and two matrices over the embedding.

The matrices work on each row here, whose mean is the same. A local layer sees half its window on each side.
"""

from __future__ import annotations

from edgellm.families import blocks, gemma3
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program

_DENSE = ("dense_2", "dense_3")


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `gemma-embedding`."""
    b = source.builder("gemma_embedding")
    windows = tuple(window // 2 + 1 if window else 0 for window in source.windows(every=6))
    x = gemma3.stack(source, b, windows, causal=False)
    x = blocks.norm(b, x, "output_norm", source.rms)
    for part in _DENSE:
        if b.has(f"{part}.weight"):
            x = blocks.linear(b, x, part, source.tensors[f"{part}.weight"][0])
    return b.build(hidden=x, logits=None, pooling=source.pooling)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from an EmbeddingGemma checkpoint."""
    return gemma3.metadata(c)


def parts(c: Config) -> Parts:
    """Tensors of such a file; the matrices over the embedding are modules of sentence-transformers."""
    p = gemma3.parts(c)
    for part in _DENSE:
        p.add(f"{part}.weight", f"{part[-1]}_Dense.linear.weight", optional=True)
    return p


FAMILY = Family(
    build,
    Checkpoint((), metadata, parts, ignored=(r"lm_head\.weight",), mixture="gemma3_text"),
)
