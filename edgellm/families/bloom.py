"""BLOOM: ALiBi instead of positions, a norm after the embedding, plain feed-forward parts."""

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
    """Program of a GGUF file of architecture `bloom`."""
    max_bias = source.metadata.number("attention.max_alibi_bias", 8.0)
    b = source.builder("bloom")
    x = layers.sequential(
        source,
        b,
        blocks.norm(b, blocks.embed(b), "token_embd_norm", source.layer_norm),
        lambda i: blocks.heads(source, i, rope=None)._replace(max_bias=max_bias),
        source.layer_norm,
        dense=partial(blocks.mlp, activation="gelu_tanh"),
    )
    return blocks.head(source, b, x, source.layer_norm)


# One matrix holds query, key and value of each head in turn.
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attention.query_key_value",
    "attn_output": "self_attention.dense",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.dense_h_to_4h",
    "ffn_down": "mlp.dense_4h_to_h",
}


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a BLOOM checkpoint."""
    c.only("apply_residual_connection_post_layernorm", False)
    out: dict[str, Value] = {
        "context_length": c.integer("seq_length", default=2048),
        "embedding_length": c.width,
        "feed_forward_length": 4 * c.width,
        "block_count": c.n_layers,
        "attention.head_count": c.n_heads,
        "attention.head_count_kv": c.n_heads,
    }
    return out | standard.layer_norm(c, "layer_norm_epsilon")


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    p.add("token_embd.weight", "transformer.word_embeddings.weight")
    ends = {"token_embd_norm": "word_embeddings_layernorm", "output_norm": "ln_f"}
    p.layer("", "transformer", ends)
    if not c.tied:
        p.add("output.weight", "lm_head.weight", optional=c.tied is None)
    qkv = Concat(tuple(GroupRows(c.n_heads, part * c.head_dim, c.head_dim) for part in range(3)))
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"transformer.h.{i}", _LAYER, {"attn_qkv": qkv})
    return p


FAMILY = Family(
    build,
    Checkpoint(("bloom",), metadata, parts, defaults={"bloom": {"layer_norm_epsilon": 1e-5}}),
)
