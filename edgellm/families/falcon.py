"""Falcon 1 and 2: attention and feed-forward side by side or in turn, over rotated heads or ALiBi."""

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
    """Program of a GGUF file of architecture `falcon`."""
    m = source.metadata
    parallel = m.flag("use_parallel_residual", True)
    max_bias = m.number("attention.max_alibi_bias", 0.0, minimum=0)
    b = source.builder("falcon")
    rope = None if max_bias else blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    dense = partial(blocks.mlp, activation="gelu")

    def attention(i: int) -> blocks.Attention:
        heads = blocks.heads(source, i, rope=rope)
        # The biases are scaled as the products of queries and keys are.
        return heads._replace(max_bias=max_bias, bias_scale=heads.scale if max_bias else 1.0)

    x = blocks.embed(b)
    if parallel:
        norms = ("attn_norm_2", "attn_norm") if b.has("blk.0.attn_norm_2.weight") else ("attn_norm", None)
        attn_norm, ffn_norm = norms
        x = layers.parallel(
            source, b, x, attention, source.layer_norm, dense=dense, attn_norm=attn_norm, ffn_norm=ffn_norm
        )
    else:
        x = layers.sequential(source, b, x, attention, source.layer_norm, dense=dense)
    return blocks.head(source, b, x, source.layer_norm)


_LAYER = {
    "attn_qkv": "self_attention.query_key_value",
    "attn_output": "self_attention.dense",
    "ffn_up": "mlp.dense_h_to_4h",
    "ffn_down": "mlp.dense_4h_to_h",
}
_MAX_BIAS = 8.0


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Falcon checkpoint."""
    c.only("activation", "gelu")
    out: dict[str, Value] = {
        "block_count": c.n_layers,
        "context_length": c.integer("max_position_embeddings", default=2048),
        "tensor_data_layout": "jploski",
        "embedding_length": c.width,
        "feed_forward_length": c.integer("ffn_hidden_size", default=4 * c.width),
        "attention.head_count": c.n_heads,
        "attention.head_count_kv": _n_kv_heads(c),
    }
    out |= standard.layer_norm(c, "layer_norm_epsilon")
    if c.flag("alibi", False):
        out["attention.max_alibi_bias"] = _MAX_BIAS
    else:
        out |= standard.rope(c)
    if not _parallel(c):
        out["use_parallel_residual"] = False
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    p.add("token_embd.weight", "transformer.word_embeddings.weight")
    p.layer("", "transformer", {"output_norm": "ln_f"})
    if not c.tied:
        p.add("output.weight", "lm_head.weight", optional=c.tied is None)
    # Rows of a key head's query heads, of its key, and of its value, in turn.
    n_kv, size = _n_kv_heads(c), c.head_dim
    n_query = c.n_heads // n_kv * size
    rows = ((0, n_query), (n_query, size), (n_query + size, size))
    qkv = Concat(tuple(GroupRows(n_kv, start, n) for start, n in rows))
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"transformer.h.{i}", _norms(c) | _LAYER, {"attn_qkv": qkv})
    return p


def _parallel(c: Config) -> bool:
    """True where attention and the dense part read the same row."""
    return c.flag("new_decoder_architecture", False) or c.flag("parallel_attn", True)


def _norms(c: Config) -> dict[str, str]:
    """Names of a layer's norms."""
    if not _parallel(c):
        return {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    if c.flag("new_decoder_architecture", False) and c.integer("num_ln_in_parallel_attn", default=2) == 2:
        return {"attn_norm": "ln_mlp", "attn_norm_2": "ln_attn"}
    return {"attn_norm": "input_layernorm"}


def _n_kv_heads(c: Config) -> int:
    """Number of key heads."""
    if c.flag("new_decoder_architecture", False):
        return c.integer("num_kv_heads", default=c.n_heads)
    return 1 if c.flag("multi_query", True) else c.n_heads


FAMILY = Family(
    build,
    Checkpoint(("falcon",), metadata, parts, defaults={"falcon": {"layer_norm_epsilon": 1e-5}}),
)
