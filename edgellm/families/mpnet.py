"""MPNet encoders (all-mpnet-base-v2): BERT's layers, and a bias of attention by distance."""

from __future__ import annotations

from edgellm.families import bert, blocks, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import GroupRows
from edgellm.program import Program

_BIAS = "blk.0.attn_rel_b.weight"
_BUCKETS = "attention.relative_buckets_count"
# MPNet's configs do not have it; T5's do.
_MAX_DISTANCE = 128


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `mpnet`; the first layer's bias serves all layers."""
    b = source.builder("mpnet")
    bias = blocks.DistanceBias(_BIAS, source.metadata.integer(_BUCKETS), _MAX_DISTANCE)
    x = bert.positioned(source, b, blocks.embed(b))

    def attention(i: int) -> blocks.Attention:
        return blocks.heads(source, i, rope=None)._replace(bias=bias)

    return bert.layers(source, b, x, attention, bert.PLAIN)


_LAYER = {
    "attn_q": "attention.attn.q",
    "attn_k": "attention.attn.k",
    "attn_v": "attention.attn.v",
    "attn_output": "attention.attn.o",
    "attn_output_norm": "attention.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}
_PADDING = 1  # positions begin after it, whatever the config says


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from an MPNet checkpoint."""
    c.only("hidden_act", "gelu")
    out = standard.sizes(c) | standard.layer_norm(c, "layer_norm_eps")
    del out["attention.head_count_kv"]
    out["context_length"] = c.integer("max_position_embeddings") - _PADDING - 1
    out["attention.causal"] = False
    out[_BUCKETS] = c.integer("relative_attention_num_buckets")
    if standard.ranks(c):
        out["pooling_type"] = 4
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    n_rows = c.integer("max_position_embeddings") - _PADDING - 1
    p.add("token_embd.weight", "embeddings.word_embeddings.weight")
    positions = GroupRows(1, _PADDING + 1, n_rows)
    p.add("position_embd.weight", "embeddings.position_embeddings.weight", make=positions)
    p.layer("", "embeddings", {"token_embd_norm": "LayerNorm"})
    p.add(_BIAS, "encoder.relative_attention_bias.weight")
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"encoder.layer.{i}", _LAYER)
    if standard.ranks(c):
        p.layer("", "classifier", {"cls": "dense", "cls.output": "out_proj"})
    return p


FAMILY = Family(
    build,
    Checkpoint(
        ("mpnet",),
        metadata,
        parts,
        ignored=(r"pooler\..*", r"lm_head\..*", r"embeddings\.position_ids"),
        defaults={"mpnet": {"relative_attention_num_buckets": 32}},
    ),
    f32=(r"position_embd\.weight", r"blk\.0\.attn_rel_b\.weight", r"cls(\.output)?\.weight"),
)
