"""Nomic BERT encoders (nomic-embed-text v1, v1.5): BERT with rotated heads and a gated feed-forward part."""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `nomic-bert`."""
    norm = source.layer_norm
    b = source.builder("nomic_bert")
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    x = blocks.embed(b)
    if b.has("token_types.weight"):
        shape = source.tensors["token_types.weight"]
        n_types = shape[0] if len(shape) == 2 else 1
        x = b.add(x, b.embed("token_types.weight", n_types, source.width, source="first"))
    x = blocks.norm(b, x, "token_embd_norm", norm)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        attention = blocks.heads(source, i, rope=rope)._replace(causal=False)
        x = blocks.norm(b, b.add(x, blocks.attention(b, x, blk, attention)), f"{blk}.attn_output_norm", norm)
        y = blocks.glu(b, x, blk, source.n_ff[i])
        x = blocks.norm(b, b.add(x, y), f"{blk}.layer_output_norm", norm)
    return b.build(hidden=x, logits=None, pooling=source.pooling)


_LAYER = {
    "attn_qkv": "attn.Wqkv",
    "attn_output": "attn.out_proj",
    "attn_output_norm": "norm1",
    "ffn_up": "mlp.fc11",
    "ffn_gate": "mlp.fc12",
    "ffn_down": "mlp.fc2",
    "layer_output_norm": "norm2",
}


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Nomic BERT checkpoint, in its own or in transformers' form."""
    c.only("activation_function", "swiglu")
    c.only("hidden_act", "silu")
    c.only("prenorm", False)
    c.only("rotary_emb_interleaved", False)
    c.only("rotary_emb_scale_base")
    c.only("rotary_scaling_factor")
    c.only("num_experts", 0)
    if c.get("rotary_emb_fraction") not in (None, 0):
        c.only("rotary_emb_fraction", 1.0)
    return {
        "block_count": c.n_layers,
        "context_length": c.integer("max_trained_positions", "max_position_embeddings", "n_positions"),
        "embedding_length": c.width,
        "feed_forward_length": c.integer("n_inner", "intermediate_size"),
        "attention.head_count": c.n_heads,
        "attention.layer_norm_epsilon": c.number("layer_norm_epsilon", "layer_norm_eps"),
        "attention.causal": False,
        "rope.freq_base": c.rope().base,
    }


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    p.add("token_embd.weight", "embeddings.word_embeddings.weight")
    p.add("token_types.weight", "embeddings.token_type_embeddings.weight", optional=True)
    for kind in ("weight", "bias"):
        p.add(f"token_embd_norm.{kind}", f"emb_ln.{kind}")
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"encoder.layers.{i}", _LAYER)
    return p


FAMILY = Family(
    build,
    Checkpoint(
        ("nomic_bert",),
        metadata,
        parts,
        ignored=(r"pooler\..*", r"cls\..*", r"embeddings\.position_ids"),
        defaults={"nomic_bert": {"rotary_emb_base": 1000.0}},
    ),
    f32=(r"token_types\.weight",),
)
