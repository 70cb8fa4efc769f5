"""Llama 1 to 3, and the models of the same file form: Mistral, Mixtral, SmolLM2, TinyLlama.

Query and key rows are permuted in the file, so that rotated pairs are neighbours.
"""

from __future__ import annotations

from edgellm.families import blocks, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Pairs
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `llama`."""
    source.metadata.refuse("attention.temperature_scale")
    return stack(source, "llama")


def stack(source: Source, family: str, stretch: tuple[float, int] | None = None) -> Program:
    """Layers of Llama and Mistral. stretch: see `blocks.Attention`."""
    m = source.metadata
    n_experts, n_used = source.experts
    window = m.integer("attention.sliding_window", 0, minimum=0)
    b = source.builder(family)
    rope = blocks.Rope(source.rope_table(b), "interleaved", source.rope_factors())
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.rms)
        attention = blocks.heads(source, i, rope=rope, window=window)._replace(stretch=stretch)
        x = b.add(x, blocks.attention(b, y, blk, attention))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.rms)
        if n_experts:
            moe = blocks.Experts(n_experts, n_used, source.n_ff[i], normalize=True)
            x = b.add(x, blocks.experts(b, y, blk, moe))
        else:
            x = b.add(x, blocks.glu(b, y, blk, source.n_ff[i]))
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Llama, Mistral or Mixtral checkpoint."""
    c.only("hidden_act", "silu")
    out = standard.base(c)
    if c.model_type == "mixtral":
        out["expert_count"] = c.integer("num_local_experts")
        out["expert_used_count"] = c.integer("num_experts_per_tok")
    if c.model_type != "llama" and c.get("sliding_window") is not None:
        out["attention.sliding_window"] = c.integer("sliding_window")
    out["vocab_size"] = c.integer("vocab_size")
    out["rope.dimension_count"] = c.head_dim
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    standard.ends(p, c)
    pairs = {"attn_q": Pairs(c.n_heads), "attn_k": Pairs(c.n_kv_heads)}
    for i in range(c.n_layers):
        blk, layer = f"blk.{i}", f"model.layers.{i}"
        p.layer(blk, layer, standard.ATTENTION | standard.FFN_NORM, pairs)
        if c.model_type == "mixtral":
            for moe in ("block_sparse_moe", "mlp"):
                p.add(f"{blk}.ffn_gate_inp.weight", f"{layer}.{moe}.gate.weight", optional=moe == "mlp")
            names = {"ffn_gate_exps": "w1", "ffn_up_exps": "w3", "ffn_down_exps": "w2"}
            p.stacked_experts(blk, f"{layer}.mlp.experts")
            p.experts(blk, f"{layer}.block_sparse_moe.experts", names, c.integer("num_local_experts"))
        else:
            p.layer(blk, layer, standard.GLU)
    return p


FAMILY = Family(
    build,
    Checkpoint(
        ("llama", "mistral", "mixtral"),
        metadata,
        parts,
        defaults={"mistral": {"sliding_window": 4096}, "mixtral": {"rope_theta": 1000000.0}},
        mixture="mixtral",
    ),
)
