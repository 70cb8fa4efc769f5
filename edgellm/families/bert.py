"""BERT encoders: learned positions, norms after each part, attention over the whole text."""

from __future__ import annotations

from edgellm.errors import UnsupportedError
from edgellm.families import blocks, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `bert`; its rows are embeddings, there are no logits."""
    m = source.metadata
    if m.flag("attention.causal", False):
        raise UnsupportedError(f"metadata {m.key('attention.causal')!r} is true, expected false")
    norm = source.layer_norm
    b = source.builder("bert")
    x = b.add(blocks.embed(b), b.embed("token_types.weight", _n_types(source), source.width, source="first"))
    x = b.add(x, b.embed("position_embd.weight", source.n_ctx_train, source.width, source="position"))
    x = blocks.norm(b, x, "token_embd_norm", norm)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        q, k, v = blocks.projections(b, x, blk, blocks.heads(source, i, rope=None))
        y = b.attention(q, k, v, n_heads=source.n_heads[i], scale=source.head_dim**-0.5, causal=False)
        y = blocks.linear(b, y, f"{blk}.attn_output", source.width)
        x = blocks.norm(b, b.add(x, y), f"{blk}.attn_output_norm", norm)
        y = blocks.mlp(b, x, blk, source.n_ff[i], "gelu")
        x = blocks.norm(b, b.add(x, y), f"{blk}.layer_output_norm", norm)
    return b.build(hidden=x, logits=None, pooling=source.pooling)


def _n_types(source: Source) -> int:
    """Rows of the token type embedding; only the first is used."""
    shape = source.tensors.get("token_types.weight", (1,))
    return shape[0] if len(shape) == 2 else 1


_LAYER = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a BERT checkpoint."""
    c.only("hidden_act", "gelu")
    c.only("position_embedding_type", "absolute")
    out = standard.sizes(c) | standard.layer_norm(c, "layer_norm_eps")
    del out["attention.head_count_kv"]
    out["attention.causal"] = False
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    p.add("token_embd.weight", "embeddings.word_embeddings.weight")
    p.add("position_embd.weight", "embeddings.position_embeddings.weight")
    p.add("token_types.weight", "embeddings.token_type_embeddings.weight")
    p.layer("", "embeddings", {"token_embd_norm": "LayerNorm"})
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"encoder.layer.{i}", _LAYER)
    return p


FAMILY = Family(
    build,
    Checkpoint(("bert",), metadata, parts, ignored=(r"pooler\..*", r"cls\..*", r"embeddings\.position_ids")),
    f32=(r"(position_embd|token_types)\.weight",),
)
