"""Falcon-H1: attention and a Mamba 2 mixer side by side; the file folds its multipliers into weights."""

from __future__ import annotations

from edgellm.errors import ModelError, show
from edgellm.families import blocks, mamba2, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.families.transforms import Chain, Scale, ScaleRows, Transform
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `falcon-h1`."""
    mixer = mamba2.read(source)
    b = source.builder("falcon_h1")
    mixer = mixer._replace(normed=b.has("blk.0.ssm_norm.weight"))
    rope = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.rms)
        attended = blocks.attention(b, y, blk, blocks.heads(source, i, rope=rope))
        x = b.add(x, b.add(attended, blocks.mamba2(b, y, blk, mixer)))
        # llama.cpp's files name this norm alone without its suffix.
        name = f"{blk}.ffn_norm" if b.has(f"{blk}.ffn_norm") else f"{blk}.ffn_norm.weight"
        y = b.norm(x, kind="rms", eps=source.rms.eps, weight=name)
        x = b.add(x, blocks.glu(b, y, blk, source.n_ff[i]))
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Falcon-H1 checkpoint."""
    c.only("hidden_act", "silu")
    for key in ("attention_bias", "mlp_bias", "mamba_proj_bias", "projectors_bias"):
        c.only(key, False)
    if c.flag("mamba_rms_norm", False):
        c.only("mamba_norm_before_gate", False)
    mamba2.require_free_steps(c)
    out = standard.base(c)
    out["vocab_size"] = c.integer("vocab_size")
    out["ssm.conv_kernel"] = c.integer("mamba_d_conv")
    out["ssm.inner_size"] = _inner(c)
    out["ssm.state_size"] = c.integer("mamba_d_state")
    out["ssm.time_step_rank"] = c.integer("mamba_n_heads")
    out["ssm.group_count"] = c.integer("mamba_n_groups")
    return out


_LAYER = standard.ATTENTION | {
    "ffn_gate": "feed_forward.gate_proj",
    "ffn_up": "feed_forward.up_proj",
    "ffn_down": "feed_forward.down_proj",
    "ssm_in": "mamba.in_proj",
    "ssm_out": "mamba.out_proj",
}


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c)
    embedding = "model.embed_tokens.weight"
    p.add("token_embd.weight", embedding, make=_scale(c, "embedding_multiplier"))
    p.add("output_norm.weight", "model.final_layernorm.weight")
    # A tied head is written, too: the embedding is scaled otherwise.
    p.add("output.weight", embedding if c.tied else "lm_head.weight", make=_scale(c, "lm_head_multiplier"))
    n_groups, d_state = c.integer("mamba_n_groups"), c.integer("mamba_d_state")
    inner, n_bc = _inner(c), n_groups * d_state
    sections = (inner, inner, n_bc, n_bc, c.integer("mamba_n_heads"))
    gate, down = _list(c, "mlp_multipliers", 2)
    attended = c.number("attention_in_multiplier", default=1.0)
    steps: dict[str, Transform] = {
        "attn_q": Scale(attended),
        "attn_k": Scale(attended * c.number("key_multiplier", default=1.0)),
        "attn_v": Scale(attended),
        "attn_output": _scale(c, "attention_out_multiplier"),
        "ffn_gate": Scale(gate),
        "ffn_down": Scale(down),
        "ssm_in": Chain(
            (_scale(c, "ssm_in_multiplier"), ScaleRows(sections, _list(c, "ssm_multipliers", 5)))
        ),
        "ssm_out": _scale(c, "ssm_out_multiplier"),
    }
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", _LAYER, steps)
        p.add(f"blk.{i}.ffn_norm", f"model.layers.{i}.pre_ff_layernorm.weight")
        normed = c.flag("mamba_rms_norm", False)
        n_conv = inner + 2 * n_bc
        mamba2.mixer_parts(p, f"blk.{i}", f"model.layers.{i}.mamba", n_conv, n_groups, normed=normed)
    return p


def _scale(c: Config, key: str) -> Scale:
    return Scale(c.number(key, default=1.0))


def _list(c: Config, key: str, n: int) -> tuple[float, ...]:
    """Multipliers that the config lists; 1 each where it lists none."""
    listed = c.numbers(key) or (1.0,) * n
    if len(listed) != n:
        raise ModelError(f"config.json: {key!r} is {show(listed)}, expected {n} numbers")
    return listed


def _inner(c: Config) -> int:
    """Width of the mixer's inner row."""
    if c.get("mamba_d_ssm") is not None:
        return c.integer("mamba_d_ssm")
    return int(c.number("mamba_expand") * c.width)


_DEFAULTS = {
    "mamba_d_ssm": 1024,
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_norm_before_gate": True,
    "num_key_value_heads": 8,
}
FAMILY = Family(
    build,
    Checkpoint(("falcon_h1",), metadata, parts, defaults={"falcon_h1": _DEFAULTS}),
    f32=(r".*ssm_conv1d\.weight",),
)
