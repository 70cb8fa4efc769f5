"""Jina's BERT (jina-embeddings-v2): BERT with ALiBi instead of positions and a gated feed-forward part."""

from __future__ import annotations

from functools import partial

from edgellm.families import bert, blocks, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `jina-bert-v2`; its rows are embeddings, there are no logits."""
    max_bias = source.metadata.number("attention.max_alibi_bias", 8.0)
    b = source.builder("jina_bert_v2")

    def attention(i: int) -> blocks.Attention:
        normed = b.has(f"blk.{i}.attn_q_norm.weight")
        heads = blocks.heads(source, i, rope=None, qk_norm="row" if normed else None, norm=source.layer_norm)
        return heads._replace(max_bias=max_bias)

    # Files hold gate and up as one matrix, older ones as two.
    glu = partial(blocks.glu, activation="gelu", fused=not b.has("blk.0.ffn_gate.weight"))
    return bert.layers(source, b, b.add(blocks.embed(b), bert.token_types(source, b)), attention, glu)


_LAYER = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "mlp.gated_layers",
    "ffn_down": "mlp.wo",
    "layer_output_norm": "mlp.layernorm",
}


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a JinaBERT checkpoint."""
    c.only("feed_forward_type", "geglu")
    out = standard.sizes(c) | standard.layer_norm(c, "layer_norm_eps")
    del out["attention.head_count_kv"]
    out["attention.causal"] = False
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    p.add("token_embd.weight", "embeddings.word_embeddings.weight")
    p.add("token_types.weight", "embeddings.token_type_embeddings.weight")
    p.layer("", "embeddings", {"token_embd_norm": "LayerNorm"})
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"encoder.layer.{i}", _LAYER)
    return p


FAMILY = Family(
    build,
    Checkpoint((), metadata, parts, ignored=bert.UNUSED, mixture="bert"),
    f32=(r"token_types\.weight",),
)
