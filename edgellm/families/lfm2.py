"""LFM2: gated short convolutions, with attention over normalized heads in some layers."""

from __future__ import annotations

from edgellm.families import blocks, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Reshape
from edgellm.program import Builder, Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `lfm2`."""
    return stack(source, "lfm2")


def stack(source: Source, family: str, moe: blocks.Experts | None = None) -> Program:
    """Layers that LFM2 has with experts and without; one without key heads is a convolution."""
    n_taps = source.metadata.integer("shortconv.l_cache", minimum=2, maximum=64)
    b = source.builder(family)
    rope = (
        blocks.Rope(source.rope_table(b), factors=source.rope_factors()) if any(source.n_kv_heads) else None
    )
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.rms)
        if source.n_kv_heads[i]:
            attention = blocks.heads(source, i, rope=rope, qk_norm="head", norm=source.rms)
            x = b.add(x, blocks.attention(b, y, blk, attention))
        else:
            x = b.add(x, _short_conv(b, y, f"{blk}.shortconv", n_taps))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.rms)
        if moe is not None and b.has(f"{blk}.ffn_gate_inp.weight"):
            x = b.add(x, blocks.experts(b, y, blk, moe))
        else:
            x = b.add(x, blocks.glu(b, y, blk, source.n_ff[i]))
    return blocks.head(source, b, x, source.rms, part="token_embd_norm")


def _short_conv(b: Builder, x: str, part: str, n_taps: int) -> str:
    """Rows of B, C and x in one matrix: out(C * conv(B * x))."""
    rows = blocks.linear(b, x, f"{part}.in_proj", 3 * b.width)
    before, after, y = (b.slice(rows, j * b.width, b.width) for j in range(3))
    bias = f"{part}.conv.bias" if b.has(f"{part}.conv.bias") else None
    y = b.short_conv(b.mul(before, y), f"{part}.conv.weight", n_taps, bias=bias)
    return blocks.linear(b, b.mul(after, y), f"{part}.out_proj", b.width)


_ATTENTION = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.out_proj",
    "attn_q_norm": "self_attn.q_layernorm",
    "attn_k_norm": "self_attn.k_layernorm",
}
_NORMS = {"attn_norm": "operator_norm", "ffn_norm": "ffn_norm"}
DENSE = {
    "ffn_gate": "feed_forward.w1",
    "ffn_down": "feed_forward.w2",
    "ffn_up": "feed_forward.w3",
}


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a LFM2 checkpoint."""
    out = standard.sizes(c) | standard.rope(c) | standard.rms(c, "norm_eps", "block_norm_eps")
    out["feed_forward_length"] = _n_ff(c)
    out["attention.head_count_kv"] = [c.n_kv_heads if full else 0 for full in _full(c)]
    out["vocab_size"] = c.integer("vocab_size")
    out["shortconv.l_cache"] = c.integer("conv_L_cache")
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    end_parts(p, c)
    for i in range(c.n_layers):
        mixer_parts(p, c, i)
        p.layer(f"blk.{i}", f"model.layers.{i}", DENSE)
    return p


def end_parts(p: Parts, c: Config) -> None:
    """Add the tensors outside the layers."""
    standard.rope_factors(p, c)
    p.add("token_embd.weight", "model.embed_tokens.weight")
    p.add("token_embd_norm.weight", "model.embedding_norm.weight")
    if c.tied is False:
        p.add("output.weight", "lm_head.weight")


def mixer_parts(p: Parts, c: Config, i: int) -> None:
    """Add the norms and the attention or convolution of layer `i`."""
    blk, layer = f"blk.{i}", f"model.layers.{i}"
    p.layer(blk, layer, _NORMS)
    if _full(c)[i]:
        p.layer(blk, layer, _ATTENTION)
        return
    p.layer(blk, layer, {"shortconv.in_proj": "conv.in_proj", "shortconv.out_proj": "conv.out_proj"})
    conv = {"shortconv.conv": "conv.conv"}
    p.layer(blk, layer, conv, {"shortconv.conv": Reshape((c.width, -1))})


def _full(c: Config) -> list[bool]:
    """True for each layer of attention."""
    types = c.layer_types()
    if types is not None:
        return [name == "full_attention" for name in types]
    indices = c.get("full_attn_idxs") or range(c.n_layers)
    return [i in indices for i in range(c.n_layers)]


def _n_ff(c: Config) -> int:
    """Hidden width of the feed-forward part, adjusted if the config says so."""
    n_ff = c.integer("intermediate_size", "block_ff_dim")
    if not c.flag("block_auto_adjust_ff_dim", False):
        return n_ff
    adjusted = int(c.number("block_ffn_dim_multiplier", default=1.0) * int(2 * n_ff / 3))
    multiple = c.integer("block_multiple_of", default=256)
    return multiple * ((adjusted + multiple - 1) // multiple)


FAMILY = Family(
    build,
    Checkpoint(("lfm2",), metadata, parts, defaults={"lfm2": {"rope_theta": 1000000.0}}),
    f32=(r".*shortconv\.conv\.weight",),
)
