"""OPT and Galactica: learned positions, layer norms before or after each part, plain feed-forward parts."""

from __future__ import annotations

from functools import partial

from edgellm.families import blocks, layers
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Norm, Source
from edgellm.families.transforms import Constant, GroupRows, Product
from edgellm.program import Builder, Program

_ACTIVATIONS = ("relu", "gelu")


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `opt`."""
    dense = partial(blocks.mlp, activation=source.metadata.choice("hidden_activation", _ACTIVATIONS))
    b = source.builder("opt")
    positions = b.embed("position_embd.weight", source.n_ctx_train, source.width, source="position")
    x = b.add(blocks.embed(b), positions)
    if b.has("blk.0.attn_output_norm.weight"):
        return _norms_last(source, b, x, dense)
    x = layers.sequential(
        source, b, x, lambda i: blocks.heads(source, i, rope=None), source.layer_norm, dense=dense
    )
    return blocks.head(source, b, x, source.layer_norm)


def _norms_last(source: Source, b: Builder, x: str, dense: layers.Dense) -> Program:
    """The program where a norm follows each part, and the last one is the final norm."""
    how: Norm = source.layer_norm
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.attention(b, x, blk, blocks.heads(source, i, rope=None))
        x = blocks.norm(b, b.add(x, y), f"{blk}.attn_output_norm", how)
        y = dense(b, x, blk, source.n_ff[i])
        x = blocks.norm(b, b.add(x, y), f"{blk}.layer_output_norm", how)
    weight = "output.weight" if b.has("output.weight") else "token_embd.weight"
    return b.build(hidden=x, logits=b.linear(x, weight, b.n_vocab), pooling=source.pooling)


_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.out_proj",
    "ffn_up": "fc1",
    "ffn_down": "fc2",
}
_ROOT = "model.decoder"
# Rows of the position embedding that no token has.
_FIRST_POSITION = 2


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from an OPT checkpoint."""
    c.only("activation_function", *_ACTIVATIONS)
    c.only("_remove_final_layer_norm", False)
    return {
        "block_count": c.n_layers,
        "context_length": c.integer("max_position_embeddings"),
        "embedding_length": c.width,
        "feed_forward_length": c.integer("ffn_dim"),
        "attention.head_count": c.n_heads,
        "attention.head_count_kv": c.n_heads,
        "attention.layer_norm_epsilon": 1e-5,
        "hidden_activation": c.string("activation_function", default="relu"),
    }


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    embedding = f"{_ROOT}.embed_tokens.weight"
    if c.integer("word_embed_proj_dim", default=c.width) == c.width:
        p.add("token_embd.weight", embedding)
        if not c.tied:
            p.add("output.weight", "lm_head.weight", optional=c.tied is None)
    else:
        # Narrow embeddings become as wide as the layers, times the matrices between.
        p.add("token_embd.weight", embedding, f"{_ROOT}.project_in.weight", make=Product(transposed=True))
        p.add("output.weight", embedding, f"{_ROOT}.project_out.weight", make=Product(transposed=False))
    n_ctx = c.integer("max_position_embeddings")
    positions = GroupRows(1, _FIRST_POSITION, n_ctx)
    p.add("position_embd.weight", f"{_ROOT}.embed_positions.weight", make=positions)
    before = c.flag("do_layer_norm_before", True)
    if before:
        _norm(p, c, "output_norm", f"{_ROOT}.final_layer_norm")
    names = ("attn_norm", "ffn_norm") if before else ("attn_output_norm", "layer_output_norm")
    for i in range(c.n_layers):
        blk, layer = f"blk.{i}", f"{_ROOT}.layers.{i}"
        p.layer(blk, layer, _LAYER)
        for gguf, hf in zip(names, ("self_attn_layer_norm", "final_layer_norm"), strict=True):
            _norm(p, c, f"{blk}.{gguf}", f"{layer}.{hf}")
    return p


def _norm(p: Parts, c: Config, to: str, source: str) -> None:
    """Add a norm; one without parameters has weights of 1."""
    if c.flag("layer_norm_elementwise_affine", True):
        for kind in ("weight", "bias"):
            p.add(f"{to}.{kind}", f"{source}.{kind}", optional=kind == "bias")
    else:
        p.add(f"{to}.weight", make=Constant((1.0,) * c.width))


FAMILY = Family(
    build,
    Checkpoint(("opt",), metadata, parts),
    f32=(r"position_embd\.weight",),
)
