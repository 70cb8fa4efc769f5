"""GLM-4 (0414): norms on both sides of each part, half of each head rotated, gate and up in one matrix."""

from __future__ import annotations

from edgellm.families import blocks, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `glm4`."""
    b = source.builder("glm4")
    rope = blocks.Rope(source.rope_table(b), "interleaved", source.rope_factors())
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.rms)
        y = blocks.attention(b, y, blk, blocks.heads(source, i, rope=rope))
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_attention_norm", source.rms))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.rms)
        y = blocks.glu(b, y, blk, source.n_ff[i], fused=True)
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_ffw_norm", source.rms))
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a GLM-4 checkpoint."""
    c.only("hidden_act", "silu")
    out = standard.base(c)
    out["rope.dimension_count"] = _rotated(c)
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c, _rotated(c))
    standard.ends(p, c)
    names = standard.ATTENTION | standard.FFN_NORM
    names |= {"post_attention_norm": "post_self_attn_layernorm", "post_ffw_norm": "post_mlp_layernorm"}
    names |= {"ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"}
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names)
    return p


def _rotated(c: Config) -> int:
    """Number of rotated values of a head."""
    return int(c.head_dim * c.rotary_share(0.5))


FAMILY = Family(
    build,
    Checkpoint(("glm4",), metadata, parts, defaults={"glm4": {"head_dim": 128}}),
)
