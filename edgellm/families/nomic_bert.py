"""Nomic BERT encoders (nomic-embed-text v1 to v2): BERT with rotated heads and a gated feed-forward part.

Version 2 has plain feed-forward parts, and plain experts in some of the layers.
"""

from __future__ import annotations

from edgellm.families import blocks
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Chain, Reshape, Transpose
from edgellm.program import Builder, Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `nomic-bert` or `nomic-bert-moe`."""
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
        y = _feed_forward(source, b, x, i)
        x = blocks.norm(b, b.add(x, y), f"{blk}.layer_output_norm", norm)
    return b.build(hidden=x, logits=None, pooling=source.pooling)


def _feed_forward(source: Source, b: Builder, x: str, i: int) -> str:
    """Experts, a gated or a plain part, as the layer's tensors say."""
    blk, n_ff = f"blk.{i}", source.n_ff[i]
    if b.has(f"{blk}.ffn_gate.weight"):
        return blocks.glu(b, x, blk, n_ff)
    if not b.has(f"{blk}.ffn_gate_inp.weight"):
        return blocks.mlp(b, x, blk, n_ff, "gelu")
    n_experts, n_used = source.experts
    moe = blocks.Experts(n_experts, n_used, n_ff, activation="gelu", gated=False)
    y = blocks.experts(b, x, blk, moe)
    # One for all experts; llama.cpp's files leave it out.
    bias = f"{blk}.ffn_down.bias"
    return b.affine(y, bias=bias) if b.has(bias) else y


_LAYER = {
    "attn_qkv": "attn.Wqkv",
    "attn_output": "attn.out_proj",
    "attn_output_norm": "norm1",
    "layer_output_norm": "norm2",
}
_GATED = {"ffn_up": "mlp.fc11", "ffn_gate": "mlp.fc12", "ffn_down": "mlp.fc2"}
_PLAIN = {"ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"}


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Nomic BERT checkpoint, in its own or in transformers' form."""
    plain = architecture(c) is not None
    c.only("activation_function", "gelu" if plain else "swiglu")
    c.only("hidden_act", "gelu" if plain else "silu")
    c.only("prenorm", False)
    c.only("rotary_emb_interleaved", False)
    c.only("rotary_emb_scale_base")
    c.only("rotary_scaling_factor")
    c.only("num_shared_experts", 0)
    c.only("expert_choice_router", False)
    c.only("moe_normalize_expert_weights", False)
    if c.get("rotary_emb_fraction") not in (None, 0):
        c.only("rotary_emb_fraction", 1.0)
    out: dict[str, Value] = {
        "block_count": c.n_layers,
        "context_length": c.integer("max_trained_positions", "max_position_embeddings", "n_positions"),
        "embedding_length": c.width,
        "feed_forward_length": c.integer("n_inner", "intermediate_size"),
        "attention.head_count": c.n_heads,
        "attention.layer_norm_epsilon": c.number("layer_norm_epsilon", "layer_norm_eps"),
        "attention.causal": False,
        "rope.freq_base": c.rope().base,
    }
    if plain:
        out["expert_count"] = c.integer("num_experts")
        out["expert_used_count"] = c.integer("moe_top_k")
        out["moe_every_n_layers"] = c.integer("moe_every_n_layers")
    return out


def architecture(c: Config) -> str | None:
    """Architecture of a model with experts."""
    return "nomic-bert-moe" if c.integer("num_experts", default=0, minimum=0) else None


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    p.add("token_embd.weight", "embeddings.word_embeddings.weight")
    p.add("token_types.weight", "embeddings.token_type_embeddings.weight", optional=True)
    for kind in ("weight", "bias"):
        p.add(f"token_embd_norm.{kind}", f"emb_ln.{kind}")
    plain = architecture(c) is not None
    for i in range(c.n_layers):
        layer = f"encoder.layers.{i}"
        if plain and i % c.integer("moe_every_n_layers") == 1:
            p.layer(f"blk.{i}", layer, _LAYER | {"ffn_gate_inp": "mlp.router.layer"})
            _add_experts(p, c, f"blk.{i}", f"{layer}.mlp.experts")
        else:
            p.layer(f"blk.{i}", layer, _LAYER | (_PLAIN if plain else _GATED))
    return p


def _add_experts(p: Parts, c: Config, blk: str, experts: str) -> None:
    """A layer's experts, whose matrices are stacked row by row."""
    apart = Reshape((c.integer("num_experts"), -1, c.width))
    p.add(f"{blk}.ffn_up_exps.weight", f"{experts}.mlp.w1", make=apart)
    p.add(f"{blk}.ffn_down_exps.weight", f"{experts}.mlp.w2", make=Chain((apart, Transpose())))
    p.add(f"{blk}.ffn_down.bias", f"{experts}.bias", optional=True)


FAMILY = Family(
    build,
    Checkpoint(
        ("nomic_bert",),
        metadata,
        parts,
        ignored=(r"pooler\..*", r"cls\..*", r"embeddings\.position_ids"),
        defaults={"nomic_bert": {"rotary_emb_base": 1000.0}},
        architecture=architecture,
    ),
    f32=(r"token_types\.weight",),
)
