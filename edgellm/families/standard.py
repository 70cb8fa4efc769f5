"""Names and metadata that most checkpoints share: Hugging Face's tensor names, llama.cpp's metadata keys."""

from __future__ import annotations

from collections.abc import Sequence

from edgellm.errors import ModelError, UnsupportedError, show
from edgellm.families.checkpoint import Parts, Value
from edgellm.families.config import Config, RopeConfig
from edgellm.families.transforms import Constant, Transform
from edgellm.program.rope import default_inv_freq, llama3_factors, yarn_mscale

ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
}
QK_NORM = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
FFN_NORM = {"ffn_norm": "post_attention_layernorm"}
GLU = {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
EXPERTS = {"ffn_gate_exps": "gate_proj", "ffn_up_exps": "up_proj", "ffn_down_exps": "down_proj"}
POST_NORMS = {
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
SANDWICH = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def sizes(config: Config) -> dict[str, Value]:
    """Layers, context, widths and heads."""
    out: dict[str, Value] = {
        "block_count": config.n_layers,
        "context_length": config.integer("max_position_embeddings", "n_positions"),
        "embedding_length": config.width,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.n_kv_heads,
    }
    # A model with nothing but experts may lack the width of dense parts.
    if config.get("intermediate_size") is not None or config.get("moe_intermediate_size") is None:
        out["feed_forward_length"] = config.integer("intermediate_size")
    return out | _head_sizes(config)


def base(config: Config) -> dict[str, Value]:
    """Sizes, rotation and epsilon of RMS norms: the start of most families' metadata."""
    return sizes(config) | rope(config) | rms(config)


def rms(config: Config, *keys: str) -> dict[str, Value]:
    """Epsilon of RMS norms."""
    return {"attention.layer_norm_rms_epsilon": config.number(*(keys or ("rms_norm_eps",)))}


def layer_norm(config: Config, *keys: str) -> dict[str, Value]:
    """Epsilon of layer norms."""
    return {"attention.layer_norm_epsilon": config.number(*keys)}


def _head_sizes(config: Config) -> dict[str, Value]:
    """Head sizes, if the config states them."""
    if config.get("head_dim") is None:
        return {}
    return {
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
    }


def gemma_scale(config: Config) -> dict[str, Value]:
    """Scale of attention, if it is not the one of the head's size."""
    scalar = config.number("query_pre_attn_scalar", default=float(config.head_dim))
    if scalar <= 0:
        raise ModelError(f"config.json: 'query_pre_attn_scalar' is {scalar}, expected more than 0")
    return {} if scalar == config.head_dim else {"attention.scale": scalar**-0.5}


def rope(config: Config, layer_type: str | None = None) -> dict[str, Value]:
    """Base and scaling of the rotation; Llama 3's scaling goes into a tensor (rope_factors)."""
    r = config.rope(layer_type)
    out: dict[str, Value] = {"rope.freq_base": r.base}
    scaling = "rope.scaling"
    match r.kind:
        # Dynamic scaling starts past the trained length, and a file offers no longer context.
        case "default" | "llama3" | "dynamic":
            return out
        case "linear":
            return out | {f"{scaling}.type": "linear", f"{scaling}.factor": r.number("factor")}
        case "yarn":
            return out | {f"{scaling}.type": "yarn"} | _yarn(config, scaling, r)
        case _:
            raise UnsupportedError(
                f"config.json: rope type {show(r.kind)} is not implemented for this family; "
                "supported: default, dynamic, linear, llama3, yarn"
            )


def interleaved_sections(config: Config, default: Sequence[int], n_dims: int) -> dict[str, Value]:
    """Sections of a rotation whose pairs take the position in time, height and width in turn.

    Sections beyond the n_dims / 2 pairs that rotate become the counts of these pairs: llama.cpp ends the
    process at sections past a head's end.
    """
    rope, n_pairs = config.rope(), n_dims // 2
    given = rope.numbers("mrope_section") if rope.parameters.get("mrope_section") else default
    sections = [int(section) for section in given][:4]
    if sum(sections) > n_pairs:
        sections = [(n_pairs + 2 - i) // 3 for i in range(3)]
    return {"rope.dimension_sections": [*sections, 0][:4]}


def _yarn(config: Config, scaling: str, r: RopeConfig) -> dict[str, Value]:
    n_ctx = config.integer("max_position_embeddings")
    original = r.integer("original_max_position_embeddings", n_ctx)
    factor = r.number("factor", n_ctx / original)
    out: dict[str, Value] = {f"{scaling}.factor": factor, f"{scaling}.original_context_length": original}
    # The file's factor multiplies YaRN's usual one.
    if r.parameters.get("attention_factor") is not None:
        out[f"{scaling}.attn_factor"] = r.number("attention_factor") / yarn_mscale(factor)
    elif r.number("mscale", 0.0) and r.number("mscale_all_dim", 0.0):
        ratio = yarn_mscale(factor, r.number("mscale")) / yarn_mscale(factor, r.number("mscale_all_dim"))
        out[f"{scaling}.attn_factor"] = ratio / yarn_mscale(factor)
    for key in ("beta_fast", "beta_slow"):
        if r.parameters.get(key) is not None:
            out[f"{scaling}.yarn_{key}"] = r.number(key)
    if isinstance(r.parameters.get("truncate"), bool):
        out[f"{scaling}.yarn_truncate"] = r.parameters["truncate"]
    return out


def require_unscaled_rope(config: Config, layer_type: str, *more: str) -> None:
    """Raise UnsupportedError if the rotation of these layers is scaled; `more`: kinds that scale nothing."""
    kind = config.rope(layer_type).kind
    # Dynamic scaling starts past the trained length; see rope.
    if kind not in ("default", "dynamic", *more):
        raise UnsupportedError(
            f"config.json: rope type {show(kind)} of {layer_type} layers is not implemented for this family; "
            f"supported: {', '.join(('default', 'dynamic', *more))}"
        )


def rope_factors(
    parts: Parts, config: Config, n_dims: int | None = None, *, layer_type: str | None = None
) -> None:
    """Add the tensor of Llama 3's factors, if the config scales the rotation that way."""
    r = config.rope(layer_type)
    if r.kind == "llama3":
        factors = llama3_factors(
            default_inv_freq(n_dims or config.head_dim, r.base),
            r.number("factor"),
            r.number("low_freq_factor"),
            r.number("high_freq_factor"),
            r.integer("original_max_position_embeddings"),
        )
        parts.add("rope_freqs.weight", make=Constant(factors))


def windows(config: Config, *, every: int | None, key: str = "sliding_window") -> dict[str, Value]:
    """Sliding window, and the layers that have it unless they follow the family's pattern.

    every: in the family's pattern all but each n-th layer slide; None: the pattern is always written.
    """
    types = config.layer_types()
    if types is None and config.get("max_window_layers") is not None:
        first = config.integer("max_window_layers", minimum=0)
        types = tuple("full_attention" if i < first else "sliding_attention" for i in range(config.n_layers))
    if types is None:
        step = config.integer("sliding_window_pattern", "_sliding_window_pattern", default=every or 1)
        types = tuple(
            "sliding_attention" if (i + 1) % step else "full_attention" for i in range(config.n_layers)
        )
    slides = [name == "sliding_attention" for name in types]
    if config.get(key) is None or not any(slides):
        return {}
    out: dict[str, Value] = {"attention.sliding_window": config.integer(key)}
    if every is None or slides != [(i + 1) % every != 0 for i in range(config.n_layers)]:
        out["attention.sliding_window_pattern"] = slides
    return out


def ends(parts: Parts, config: Config, *, norm: Transform | None = None) -> None:
    """Add token embedding, final norm and head under the usual names."""
    parts.add("token_embd.weight", "model.embed_tokens.weight")
    parts.layer("", "model", {"output_norm": "norm"}, {"output_norm": norm} if norm is not None else None)
    if not config.tied:
        parts.add("output.weight", "lm_head.weight", optional=config.tied is None)
        parts.add("output.bias", "lm_head.bias", optional=True)


def ranks(config: Config) -> bool:
    """True if the checkpoint scores pairs of texts; a classifier of several labels is refused."""
    names = config.get("architectures") or []
    if not any(str(name).endswith("ForSequenceClassification") for name in names):
        return False
    labels = config.get("id2label")
    n_labels = len(labels) if isinstance(labels, dict) else config.integer("num_labels", default=2)
    if n_labels != 1:
        raise UnsupportedError(f"config.json: the model tells {n_labels} labels apart; supported: 1, a score")
    return True
