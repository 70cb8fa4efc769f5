"""Nemotron-H and Nemotron 3: each layer is a Mamba 2 mixer, attention, experts or squared ReLU alone.

Experts have no gate. They may work on a narrower row, a projection of the layer's.
"""

from __future__ import annotations

from edgellm.errors import ModelError, UnsupportedError, show
from edgellm.families import blocks, mamba2, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Norm, Source
from edgellm.families.transforms import Stack
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `nemotron_h`."""
    return stack(source, "nemotron_h", None)


def stack(source: Source, family: str, moe: blocks.Experts | None) -> Program:
    """Layers that Nemotron-H has with experts and without.

    A layer with a router has experts. Of others, one with key heads is attention, one with a hidden width
    is a plain part, and any other is a mixer.
    """
    norm = _norm(source)
    mixer = mamba2.read(source, norm)
    n_ff = source.metadata.integers("feed_forward_length", source.n_layers, minimum=0)
    b = source.builder(family)
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        y = blocks.norm(b, x, f"{blk}.attn_norm", norm)
        if moe is not None and b.has(f"{blk}.ffn_gate_inp.weight"):
            y = blocks.experts(b, y, blk, moe)
        elif source.n_kv_heads[i]:
            y = blocks.attention(b, y, blk, blocks.heads(source, i, rope=None))
        elif n_ff[i]:
            y = blocks.mlp(b, y, blk, n_ff[i], "relu2")
        else:
            y = blocks.mamba2(b, y, blk, mixer)
        x = b.add(x, y)
    return blocks.head(source, b, x, norm)


def _norm(source: Source) -> Norm:
    """RMS norm; a file may have its epsilon under the key of layer norms alone."""
    if source.metadata.has("attention.layer_norm_rms_epsilon"):
        return source.rms
    return source.layer_norm._replace(kind="rms")


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a Nemotron-H checkpoint."""
    c.only("mlp_hidden_act", "relu2")
    c.only("mamba_hidden_act", "silu")
    mamba2.require_free_steps(c)
    kinds = kinds_of(c)
    n_ff = c.integer("intermediate_size")
    out: dict[str, Value] = {
        "block_count": len(kinds),
        "context_length": c.integer("max_position_embeddings"),
        "embedding_length": c.width,
        "feed_forward_length": [n_ff if kind in ("mlp", "moe") else 0 for kind in kinds],
        "attention.head_count": c.n_heads,
        "attention.head_count_kv": [c.n_kv_heads if kind == "attention" else 0 for kind in kinds],
        "attention.key_length": c.integer("head_dim", "attention_head_dim"),
        "attention.value_length": c.integer("head_dim", "attention_head_dim"),
        "vocab_size": c.integer("vocab_size"),
        "ssm.conv_kernel": c.integer("conv_kernel"),
        "ssm.inner_size": _inner(c),
        "ssm.state_size": c.integer("ssm_state_size"),
        "ssm.time_step_rank": c.integer("mamba_num_heads"),
        "ssm.group_count": c.integer("n_groups"),
    }
    # llama.cpp reads the one key in any case, the other where a file has it.
    names = ("layer_norm_epsilon", "norm_eps")
    return out | standard.layer_norm(c, *names) | standard.rms(c, *names)


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    n_groups = c.integer("n_groups")
    n_conv = _inner(c) + 2 * n_groups * c.integer("ssm_state_size")
    p.add("token_embd.weight", "backbone.embeddings.weight")
    p.add("output_norm.weight", "backbone.norm_f.weight")
    if not c.tied:
        p.add("output.weight", "lm_head.weight", optional=c.tied is None)
    attention = {gguf: hf.split(".")[-1] for gguf, hf in standard.ATTENTION.items() if gguf != "attn_norm"}
    for i, kind in enumerate(kinds_of(c)):
        blk, mixer = f"blk.{i}", f"backbone.layers.{i}.mixer"
        p.add(f"{blk}.attn_norm.weight", f"backbone.layers.{i}.norm.weight")
        if kind == "attention":
            p.layer(blk, mixer, attention)
        elif kind == "mlp":
            p.layer(blk, mixer, {"ffn_up": "up_proj", "ffn_down": "down_proj"})
        elif kind == "moe":
            _expert_parts(p, c, blk, mixer)
        else:
            p.layer(blk, mixer, {"ssm_in": "in_proj", "ssm_out": "out_proj"})
            mamba2.mixer_parts(p, blk, mixer, n_conv, n_groups)
    return p


def _expert_parts(p: Parts, c: Config, blk: str, mixer: str) -> None:
    names = {"ffn_gate_inp": "gate"}
    names |= {f"ffn_{name}_shexp": f"shared_experts.{name}_proj" for name in ("up", "down")}
    if c.get("moe_latent_size") is not None:
        names |= {"ffn_latent_down": "fc1_latent_proj", "ffn_latent_up": "fc2_latent_proj"}
    p.layer(blk, mixer, names)
    p.add(f"{blk}.exp_probs_b.bias", f"{mixer}.gate.e_score_correction_bias")
    experts = {"ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}
    for gguf, hf in experts.items():
        p.add(f"{blk}.{gguf}.weight", f"{mixer}.experts.{hf}", optional=True)
        sources = (f"{mixer}.experts.{i}.{hf}.weight" for i in range(c.integer("n_routed_experts")))
        p.add(f"{blk}.{gguf}.weight", *sources, make=Stack())


def architecture(c: Config) -> str | None:
    """Architecture of a model with experts."""
    return "nemotron_h_moe" if "moe" in kinds_of(c) else None


_LETTERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_NAMES = {"linear_attention": "mamba", "full_attention": "attention"}


def kinds_of(c: Config) -> list[str]:
    """Kind of each layer, from a pattern of letters or a list of names."""
    pattern, names = c.get("hybrid_override_pattern"), c.get("layers_block_type", "layer_types")
    if isinstance(names, list):
        kinds = [_NAMES.get(name, str(name)) for name in names]
    elif isinstance(pattern, str):
        kinds = [_LETTERS.get(letter, letter) for letter in pattern]
    else:
        raise ModelError("config.json has neither 'hybrid_override_pattern' nor 'layers_block_type'")
    unknown = sorted(set(kinds) - {"mamba", "attention", "mlp", "moe"})
    if unknown or not kinds:
        found = ", ".join(map(show, unknown)) or "no layer"
        raise UnsupportedError(f"config.json: layers of kind {found}; supported: mamba, attention, mlp, moe")
    return kinds


def _inner(c: Config) -> int:
    """Width of a mixer's inner row."""
    return c.integer("mamba_num_heads") * c.integer("mamba_head_dim")


_DEFAULTS = {"n_groups": 8, "conv_kernel": 4, "num_key_value_heads": 8}
FAMILY = Family(
    build,
    Checkpoint(
        ("nemotron_h",), metadata, parts, defaults={"nemotron_h": _DEFAULTS}, architecture=architecture
    ),
    f32=(r".*ssm_conv1d\.weight",),
)
