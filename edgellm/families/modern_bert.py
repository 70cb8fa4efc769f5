"""ModernBERT encoders: rotated heads, norms before each part, local layers between global ones."""

from __future__ import annotations

from edgellm.families import blocks, standard
from edgellm.families.checkpoint import Checkpoint, Parts, Value
from edgellm.families.config import Config
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Builder, Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `modern-bert`; half a window lies on each side."""
    m = source.metadata
    b = source.builder("modern_bert")
    every = m.integer("attention.sliding_window_pattern", 3) if not m.is_list(_PATTERN) else 3
    window = m.integer("attention.sliding_window", 0, minimum=0)
    slides = [window > 0 and i % every != 0 for i in range(source.n_layers)]
    if m.is_list(_PATTERN):
        slides = [window > 0 and slide for slide in m.flags(_PATTERN, source.n_layers)]
    ropes = {False: blocks.Rope(source.rope_table(b, base=m.number("rope.freq_base", 160000.0)))}
    if any(slides):
        base = m.number("rope.freq_base_swa", 10000.0)
        ropes[True] = blocks.Rope(source.rope_table(b, name="rope_local", base=base, scaled=False))
    x = blocks.norm(b, blocks.embed(b), "token_embd_norm", source.layer_norm)
    for i, local in enumerate(slides):
        blk = f"blk.{i}"
        attention = blocks.heads(source, i, rope=ropes[local], window=window // 2 + 1 if local else 0)
        # The embedding's norm serves the first layer, too.
        y = blocks.norm(b, x, f"{blk}.attn_norm", source.layer_norm) if i else x
        x = b.add(x, blocks.attention(b, y, blk, attention._replace(causal=False)))
        y = blocks.norm(b, x, f"{blk}.ffn_norm", source.layer_norm)
        x = b.add(x, blocks.glu(b, y, blk, source.n_ff[i], "gelu", fused=True))
    x = blocks.norm(b, x, "output_norm", source.layer_norm)
    if source.pooling == "rank":
        x = _scores(source, b, x)
    return b.build(hidden=x, logits=None, pooling=source.pooling)


def _scores(source: Source, b: Builder, x: str) -> str:
    """Scores by a head over the mean row, or over each row, of which the first one counts."""
    if source.metadata.integer(_HEAD_POOLING, _MEAN, minimum=_MEAN, maximum=_CLS) == _MEAN:
        # Equal logits of all keys: each row becomes the mean of the text's rows.
        zero = b.affine(x, factor=0.0)
        x = b.attention(zero, zero, x, n_heads=source.n_heads[0], scale=1.0, causal=False)
    x = b.activation(blocks.linear(b, x, "cls", source.width), "gelu")
    x = blocks.norm(b, x, "cls.norm", source.layer_norm)
    return blocks.linear(b, x, "cls.output", source.tensors.get("cls.output.weight", (0,))[0])


# Pooling before a ranker's head, by GGUF's numbers. llama.cpp has no such key and takes the mean.
_HEAD_POOLING = "classifier.pooling_type"
_MEAN, _CLS = 1, 2
_PATTERN = "attention.sliding_window_pattern"
_LAYER = {
    "attn_qkv": "attn.Wqkv",
    "attn_output": "attn.Wo",
    "ffn_norm": "mlp_norm",
    "ffn_up": "mlp.Wi",
    "ffn_down": "mlp.Wo",
}


def metadata(c: Config) -> dict[str, Value]:
    """Metadata of a file converted from a ModernBERT checkpoint."""
    c.only("hidden_activation", "gelu")
    c.only("position_embedding_type", "absolute", "rope")
    out = standard.sizes(c) | standard.layer_norm(c, "norm_eps", "layer_norm_eps")
    out["attention.causal"] = False
    out["vocab_size"] = c.integer("vocab_size")
    out["attention.sliding_window"] = c.integer("local_attention")
    every = c.integer("global_attn_every_n_layers", default=3)
    types = c.layer_types()
    slides = [i % every != 0 for i in range(c.n_layers)]
    if types is not None:
        slides = [name == "sliding_attention" for name in types]
    out[_PATTERN] = slides
    if slides == [i % every != 0 for i in range(c.n_layers)]:
        out[_PATTERN] = every
    for key, kind, older in (("", "full", "global"), ("_swa", "sliding", "local")):
        out[f"rope.freq_base{key}"] = _base(c, f"{kind}_attention", f"{older}_rope_theta")
    if standard.ranks(c):
        c.only("classifier_activation", "gelu")
        c.only("classifier_pooling", "cls", "mean")
        out["pooling_type"] = 4
        if c.get("classifier_pooling") != "mean":
            out[_HEAD_POOLING] = _CLS
    return out


def parts(c: Config) -> Parts:
    """Tensors of such a file."""
    p = Parts()
    p.add("token_embd.weight", "model.embeddings.tok_embeddings.weight")
    p.layer("", "model", {"token_embd_norm": "embeddings.norm", "output_norm": "final_norm"})
    for i in range(c.n_layers):
        p.layer(f"blk.{i}", f"model.layers.{i}", _LAYER | ({"attn_norm": "attn_norm"} if i else {}))
    if standard.ranks(c):
        p.layer("", "head", {"cls": "dense", "cls.norm": "norm"})
        for kind in ("weight", "bias"):
            p.add(f"cls.output.{kind}", f"classifier.{kind}")
    return p


def _base(c: Config, kind: str, older: str) -> float:
    """Base of the rotation of a kind of layers, in the forms of transformers 5 and 4."""
    parameters = c.get("rope_parameters")
    if isinstance(parameters, dict) and kind in parameters:
        standard.require_unscaled_rope(c, kind)
        return c.rope(kind).base
    return c.number(older)


_DEFAULTS = {"local_attention": 128, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0}
FAMILY = Family(
    build,
    Checkpoint(
        ("modernbert",),
        metadata,
        parts,
        ignored=(r"head\..*", r"decoder\..*"),
        defaults={"modernbert": _DEFAULTS},
    ),
    f32=(r"cls(\.output)?\.weight",),
)
