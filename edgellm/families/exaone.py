"""EXAONE 3 and 3.5: Llama's layer under other names."""

from __future__ import annotations

from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `exaone`."""
    b = source.builder("exaone")
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    x = layers.sequential(
        source, b, blocks.embed(b), lambda i: blocks.heads(source, i, rope=rope), source.rms
    )
    return blocks.head(source, b, x, source.rms)


_LAYER = {
    "attn_norm": "ln_1",
    "attn_q": "attn.attention.q_proj",
    "attn_k": "attn.attention.k_proj",
    "attn_v": "attn.attention.v_proj",
    "attn_output": "attn.attention.out_proj",
    "ffn_norm": "ln_2",
    "ffn_gate": "mlp.c_fc_0",
    "ffn_up": "mlp.c_fc_1",
    "ffn_down": "mlp.c_proj",
}


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from an EXAONE checkpoint."""
    c.only("activation_function", "silu")
    c.only("hidden_act", "silu")
    out = standard.sizes(c) | standard.rope(c) | standard.rms(c, "layer_norm_epsilon", "rms_norm_eps")
    out["rope.dimension_count"] = c.head_dim
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    p.add("token_embd.weight", "transformer.wte.weight")
    p.add("output_norm.weight", "transformer.ln_f.weight")
    if not c.tied:
        p.add("output.weight", "lm_head.weight", optional=c.tied is None)
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"transformer.h.{i}", _LAYER)
    return p


FAMILY = Family(
    build,
    Checkpoint(("exaone",), metadata, parts),
)
