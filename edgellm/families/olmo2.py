"""OLMo 2 and 3: norms after attention and feed-forward, whole query and key rows normalized."""

from __future__ import annotations

from edgellm.errors import UnsupportedError
from edgellm.families import blocks, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `olmo2`."""
    b = source.builder("olmo2")
    windows = source.windows(every=4)
    # Only full layers stretch the rotation.
    rope = local = blocks.Rope(source.rope_table(b), factors=source.rope_factors())
    if any(windows) and source.metadata.has("rope.scaling.type"):
        local = blocks.Rope(source.rope_table(b, name="rope_local", scaled=False))
    x = blocks.embed(b)
    for i in range(source.n_layers):
        blk = f"blk.{i}"
        turned = local if windows[i] else rope
        attention = blocks.heads(source, i, rope=turned, window=windows[i], qk_norm="row", norm=source.rms)
        y = blocks.attention(b, x, blk, attention)
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_attention_norm", source.rms))
        y = blocks.glu(b, x, blk, source.n_ff[i])
        x = b.add(x, blocks.norm(b, y, f"{blk}.post_ffw_norm", source.rms))
    return blocks.head(source, b, x, source.rms)


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from an OLMo 2 or 3 checkpoint."""
    c.only("hidden_act", "silu")
    if c.model_type == "olmo2":
        return standard.base(c)
    local, full = (c.rope(f"{kind}_attention") for kind in ("sliding", "full"))
    if not _nested(c):
        local = local._replace(kind="default")
    if local.kind != "default" or local.base != full.base:
        raise UnsupportedError("config.json: the rotation of sliding layers differs from that of full ones")
    out = standard.sizes(c) | standard.rope(c, "full_attention") | standard.rms(c)
    return out | standard.windows(c, every=4)


def _nested(c: Config) -> bool:
    """True if the config has rotations for each kind of layers; otherwise only full ones are scaled."""
    parameters = c.get("rope_parameters")
    return isinstance(parameters, dict) and any(isinstance(value, dict) for value in parameters.values())


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    standard.rope_factors(p, c, layer_type="full_attention")
    standard.ends(p, c)
    names = {key: hf for key, hf in standard.ATTENTION.items() if key != "attn_norm"}
    names |= standard.QK_NORM | standard.GLU
    names |= {
        "post_attention_norm": "post_attention_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", names)
    return p


FAMILY = Family(
    build,
    Checkpoint(
        ("olmo2", "olmo3"),
        metadata,
        parts,
        defaults={"olmo3": {"sliding_window": 4096, "rope_theta": 500000.0}},
    ),
)
