"""GPT-NeoX and Pythia: attention and feed-forward side by side over partly rotated heads."""

from __future__ import annotations

from functools import partial

from edgellm.families import blocks, layers, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Concat, GroupRows
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `gptneox`."""
    parallel = source.metadata.flag("use_parallel_residual", True)
    b = source.builder("gpt_neox")
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    dense = partial(blocks.mlp, activation="gelu")

    def attention(i: int) -> blocks.Attention:
        return blocks.heads(source, i, rope=rope)

    x = blocks.embed(b)
    if parallel:
        x = layers.parallel(source, b, x, attention, source.layer_norm, dense=dense, ffn_norm="ffn_norm")
    else:
        x = layers.sequential(source, b, x, attention, source.layer_norm, dense=dense)
    return blocks.head(source, b, x, source.layer_norm)


# One matrix holds query, key and value of each head in turn.
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "attention.query_key_value",
    "attn_output": "attention.dense",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.dense_h_to_4h",
    "ffn_down": "mlp.dense_4h_to_h",
}


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a GPT-NeoX checkpoint."""
    c.only("hidden_act", "gelu")
    out = standard.sizes(c) | standard.rope(c) | standard.layer_norm(c, "layer_norm_eps")
    out["rope.dimension_count"] = _rotated(c)
    out["use_parallel_residual"] = c.flag("use_parallel_residual", True)
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c, _rotated(c))
    p.add("token_embd.weight", "gpt_neox.embed_in.weight")
    p.layer("", "gpt_neox", {"output_norm": "final_layer_norm"})
    if not c.tied:
        p.add("output.weight", "embed_out.weight", optional=c.tied is None)
    qkv = Concat(tuple(GroupRows(c.n_heads, part * c.head_dim, c.head_dim) for part in range(3)))
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"gpt_neox.layers.{i}", _LAYER, {"attn_qkv": qkv})
    return p


def _rotated(c: Config) -> int:
    """Number of rotated values of a head."""
    return int(c.head_dim * c.rotary_share(0.25))


FAMILY = Family(
    build,
    Checkpoint(("gpt_neox",), metadata, parts),
)
