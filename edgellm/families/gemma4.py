"""Gemma 4, text: Gemma 3's layer with wider global heads, value norms and caches that later layers share.

It has an embedding and a scale for each layer. A mixture has experts beside the dense part of each.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from edgellm.errors import ModelError, UnsupportedError
from edgellm.families import blocks, mixture, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import MAX_HEAD, Source
from edgellm.families.transforms import Constant
from edgellm.program import Builder, Program
from edgellm.program.rope import proportional_factors


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `gemma4`."""
    m = source.metadata
    n_shared = m.integer("attention.shared_kv_layers", 0, minimum=0, maximum=source.n_layers - 1)
    n_side = m.integer("embedding_length_per_layer_input", 0, minimum=0, maximum=source.width)
    b = source.builder("gemma4")
    windows = source.windows(every=6)
    kinds = _kinds(source, b, windows)
    x = blocks.embed(b, source.width**0.5)
    side = _side_rows(source, b, x, n_side) if n_side else ""
    caches: dict[int, int] = {}
    for i, window in enumerate(windows):
        blk = f"blk.{i}"
        own = i < source.n_layers - n_shared
        if own:
            head_dim = kinds[window].head_dim
            caches[window] = b.cache(source.n_kv_heads[i], head_dim, head_dim, window)
        elif window not in caches:
            raise ModelError(f"layer {i} shares its keys, but no earlier layer has a window of {window}")
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.rms)
        y = _attention(source, b, y, i, kinds[window], window, caches[window], own=own)
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_attention_norm", source.rms))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.rms)
        y = blocks.glu(b, y, blk, source.n_ff[i], "gelu_tanh")
        if b.has(f"{blk}.ffn_gate_inp.weight"):
            y = b.add(blocks.norm(b, y, f"{blk}.post_ffw_norm_1", source.rms), _experts(source, b, x, blk))
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_ffw_norm", source.rms))
        if n_side:
            gate = blocks.linear(b, x, f"{blk}.inp_gate", n_side)
            y = b.glu(gate, b.slice(side, i * n_side, n_side), activation="gelu_tanh")
            y = blocks.linear(b, y, f"{blk}.proj", source.width)
            x = b.add(x, blocks.norm(b, y, f"{blk}.post_norm", source.rms))
        if b.has(f"{blk}.layer_output_scale.weight"):
            x = b.affine(x, weight=f"{blk}.layer_output_scale.weight", size=1)
    softcap = m.number("final_logit_softcapping", 0.0, minimum=0)
    return blocks.head(source, b, x, source.rms, softcap=softcap)


def _experts(source: Source, b: Builder, x: str, blk: str) -> str:
    """Experts over the normalized row; the router reads it by a norm and a scale of its own."""
    moe = mixture.read(source, normalize=True)._replace(activation="gelu_tanh")
    routed = b.norm(x, kind="rms", eps=source.rms.eps)
    routed = b.affine(routed, factor=source.width**-0.5, weight=f"{blk}.ffn_gate_inp.scale")
    y = blocks.norm(b, x, f"{blk}.pre_ffw_norm_2", source.rms)
    y = blocks.experts(b, y, blk, moe, routed=routed)
    return blocks.norm(b, y, f"{blk}.post_ffw_norm_2", source.rms)


class _Kind(NamedTuple):
    """Head size and rotation of local or of global layers."""

    head_dim: int
    rope: blocks.Rope


def _kinds(source: Source, b: Builder, windows: tuple[int, ...]) -> dict[int, _Kind]:
    """Head size and rotation by window; factors make global layers rotate a part of the head."""
    m = source.metadata
    kinds = {}
    if 0 in windows:
        rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
        kinds[0] = _Kind(source.head_dim, rope)
    if any(windows):
        head = m.integer("attention.key_length_swa", source.head_dim, maximum=MAX_HEAD)
        n_dims = m.integer("rope.dimension_count_swa", head, minimum=2, maximum=head)
        base = m.number("rope.freq_base_swa", 10000.0)
        table = source.rope_table(b, name="rope_local", n_dims=n_dims, base=base, scaled=False)
        kinds[max(windows)] = _Kind(head, blocks.Rope(table))
    return kinds


def _side_rows(source: Source, b: Builder, x: str, n_side: int) -> str:
    """A row of `n_side` values for each layer, from the token and from the scaled embedding."""
    total = n_side * source.n_layers
    token = b.embed("per_layer_token_embd.weight", source.n_vocab, total)
    rows = b.affine(blocks.linear(b, x, "per_layer_model_proj", total), factor=source.width**-0.5)
    rows = blocks.norm(b, rows, "per_layer_proj_norm", source.rms, groups=source.n_layers)
    return b.affine(b.add(rows, b.affine(token, factor=n_side**0.5)), factor=2**-0.5)


def _attention(
    source: Source, b: Builder, x: str, layer: int, kind: _Kind, window: int, cache: int, *, own: bool
) -> str:
    """Attention over the layer's own keys and values, or over the cache of an earlier layer of its kind."""
    blk, n_heads, n_kv_heads = f"blk.{layer}", source.n_heads[layer], source.n_kv_heads[layer]
    q = blocks.linear(b, x, f"{blk}.attn_q", n_heads * kind.head_dim)
    q = blocks.norm(b, q, f"{blk}.attn_q_norm", source.rms, groups=n_heads)
    q = blocks.rotate(b, q, n_heads, kind.rope)
    if own:
        k = v = blocks.linear(b, x, f"{blk}.attn_k", n_kv_heads * kind.head_dim)
        if b.has(f"{blk}.attn_v.weight"):
            v = blocks.linear(b, x, f"{blk}.attn_v", n_kv_heads * kind.head_dim)
        v = b.norm(v, kind="rms", eps=source.rms.eps, groups=n_kv_heads)
        k = blocks.norm(b, k, f"{blk}.attn_k_norm", source.rms, groups=n_kv_heads)
        k = blocks.rotate(b, k, n_kv_heads, kind.rope)
        out = b.attention(q, k, v, cache=cache, n_heads=n_heads, scale=1.0, window=window)
    else:
        out = b.attention_shared(q, cache=cache, n_heads=n_heads, scale=1.0, window=window)
    return blocks.linear(b, out, f"{blk}.attn_output", source.width)


_SIDE = {
    "inp_gate": "per_layer_input_gate",
    "proj": "per_layer_projection",
    "post_norm": "post_per_layer_input_norm",
}


_MIXED = {
    "ffn_gate_inp": "router.proj",
    "post_ffw_norm_1": "post_feedforward_layernorm_1",
    "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
    "post_ffw_norm_2": "post_feedforward_layernorm_2",
}


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Gemma 4 checkpoint."""
    c.only("hidden_activation", "gelu_pytorch_tanh")
    c.only("use_bidirectional_attention", False, "vision")
    standard.require_unscaled_rope(c, "sliding_attention")
    standard.require_unscaled_rope(c, "full_attention", "proportional")
    local, wide = _heads(c)
    n_side = c.integer("hidden_size_per_layer_input", default=0, minimum=0)
    n_shared = c.integer("num_kv_shared_layers", default=0, minimum=0)
    slides = _slides(c)
    out = standard.sizes(c) | standard.rms(c)
    out["rope.freq_base"] = c.rope("full_attention").base
    out["rope.freq_base_swa"] = c.rope("sliding_attention").base
    out["attention.key_length"] = wide
    out["attention.value_length"] = wide
    out["attention.key_length_swa"] = local
    out["attention.value_length_swa"] = local
    out["rope.dimension_count"] = wide
    out["rope.dimension_count_swa"] = local
    out["attention.sliding_window"] = c.integer("sliding_window")
    out["attention.sliding_window_pattern"] = slides
    out["attention.shared_kv_layers"] = n_shared
    out["embedding_length_per_layer_input"] = n_side
    if c.get("final_logit_softcapping") is not None:
        out["final_logit_softcapping"] = c.number("final_logit_softcapping")
    n_global = _global_value(c, "num_key_value_heads", c.get("num_global_key_value_heads"))
    if n_global is not None:
        out["attention.head_count_kv"] = [c.n_kv_heads if slide else n_global for slide in slides]
    if c.flag("enable_moe_block", False):
        out |= mixture.sizes(c, "num_experts", "top_k_experts")
    if c.flag("use_double_wide_mlp", False):
        n_ff = c.integer("intermediate_size")
        first = c.n_layers - n_shared
        out["feed_forward_length"] = [n_ff if i < first else 2 * n_ff for i in range(c.n_layers)]
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    share = c.rope("full_attention").number("partial_rotary_factor", 1.0)
    p.add("rope_freqs.weight", make=Constant(proportional_factors(_heads(c)[1], share)))
    standard.ends(p, c)
    n_side = c.integer("hidden_size_per_layer_input", default=0, minimum=0)
    first_shared = c.n_layers - c.integer("num_kv_shared_layers", default=0, minimum=0)
    if n_side:
        p.add("per_layer_token_embd.weight", "model.embed_tokens_per_layer.weight")
        p.add("per_layer_model_proj.weight", "model.per_layer_model_projection.weight")
        p.add("per_layer_proj_norm.weight", "model.per_layer_projection_norm.weight")
    for i in range(c.n_layers):
        blk, layer = f"blk.{i}", f"model.layers.{i}"
        p.layer(blk, layer, standard.SANDWICH | standard.GLU)
        p.add(f"{blk}.layer_output_scale.weight", f"{layer}.layer_scalar", optional=True)
        for gguf, hf in (standard.ATTENTION | standard.QK_NORM).items():
            unused = gguf == "attn_v" or (gguf in ("attn_k", "attn_k_norm") and i >= first_shared)
            p.add(f"{blk}.{gguf}.weight", f"{layer}.{hf}.weight", optional=unused)
        if n_side:
            p.layer(blk, layer, _SIDE)
        if c.flag("enable_moe_block", False):
            p.layer(blk, layer, _MIXED)
            p.add(f"{blk}.ffn_gate_inp.scale", f"{layer}.router.scale")
            p.add(f"{blk}.ffn_down_exps.scale", f"{layer}.router.per_expert_scale")
            p.add(f"{blk}.ffn_gate_up_exps.weight", f"{layer}.experts.gate_up_proj")
            p.add(f"{blk}.ffn_down_exps.weight", f"{layer}.experts.down_proj")
    return p


def _slides(c: Config) -> list[bool]:
    """True for each local layer."""
    types = c.layer_types()
    if types is None:
        return [(i + 1) % 6 != 0 for i in range(c.n_layers)]
    return [name == "sliding_attention" for name in types]


def _heads(c: Config) -> tuple[int, int]:
    """Head sizes of local and of global layers."""
    wide = _global_value(c, "head_dim", c.get("global_head_dim"))
    return c.head_dim, 512 if wide is None else wide


def _global_value(c: Config, key: str, given: Any) -> int | None:
    """A value of global layers, given or the one that the config lists for single layers; None if neither."""
    per_layer = c.get("per_layer_config") or {}
    if not isinstance(per_layer, dict) or not all(isinstance(value, dict) for value in per_layer.values()):
        raise ModelError("config.json: 'per_layer_config': expected an object for each layer")
    listed = {value[key] for value in per_layer.values() if type(value.get(key)) is int}
    if len(listed) > 1:
        found = sorted(listed)
        raise UnsupportedError(f"config.json: 'per_layer_config' has {key} {found}, supported: one")
    if given is None and not listed:
        return None
    return Config({"model_type": c.model_type, key: next(iter(listed)) if given is None else given}).integer(
        key
    )


# A layer that shares an earlier cache may still have weights of keys and values, which are not used.
_UNUSED = r"blk\.\d+\.attn_(k|v|k_norm)\.weight"
_TYPES = ("gemma4", "gemma4_text")
_UNIFIED = ("gemma4_unified", "gemma4_unified_text")
_DEFAULTS = {
    "head_dim": 256,
    "hidden_size_per_layer_input": 256,
    "sliding_window": 512,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {
            "rope_type": "proportional",
            "partial_rotary_factor": 0.25,
            "rope_theta": 1000000.0,
        },
    },
    "tie_word_embeddings": True,
}
FAMILY = Family(
    build,
    Checkpoint(
        (*_TYPES, *_UNIFIED),
        metadata,
        parts,
        defaults=dict.fromkeys(_TYPES, _DEFAULTS)
        | dict.fromkeys(_UNIFIED, _DEFAULTS | {"hidden_size_per_layer_input": 0, "sliding_window": 1024}),
    ),
    ignored=(_UNUSED,),
    f32=(r".*per_layer_model_proj\.weight",),
)
