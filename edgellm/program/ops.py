"""Operations of a model program, as data.

A program is a flat list of `Op`s over values. A value is a matrix `(n_tokens, width)` of float32. An op reads
earlier values and named weights, and makes one value; a few ops also read and write the state of a sequence:
the key/value cache, a convolution's tail, a recurrent state. `SPECS` is the only definition of the inputs,
weights and attributes of each op. The builder, the checker, the text form, the interpreter and the native
engine follow it.

"Per group" means that the row is cut into `groups` equal slices, mostly attention heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

AttrType = Literal["int", "float", "bool", "str", "table"]
AttrValue = int | float | bool | str


class Attr(NamedTuple):
    """One attribute of an op: its type, its default (None: required) and, for `str`, its choices."""

    type: AttrType
    default: AttrValue | None = None
    choices: tuple[str, ...] = ()


class OpSpec(NamedTuple):
    """The signature of an op: value inputs, weight roles (a trailing `?` marks optional), attributes."""

    doc: str
    inputs: tuple[str, ...]
    weights: tuple[str, ...] = ()
    attrs: Mapping[str, Attr] = MappingProxyType({})


ACTIVATIONS = (
    "silu",
    "gelu",
    "gelu_tanh",
    "gelu_quick",
    "relu",
    "relu2",
    "sigmoid",
    "tanh",
    "softplus",
    "exp",
)

SPECS: dict[str, OpSpec] = {
    "embed": OpSpec(
        "Row of `weight` (n_rows, width) for each token id, or for each position, or row 0 (token type), or "
        "row 1 after the text's first token `separator` and row 0 before (segment).",
        (),
        ("weight",),
        {
            "source": Attr("str", "token", ("token", "position", "first", "segment")),
            "separator": Attr("int", -1),
        },
    ),
    "norm": OpSpec(
        "Normalize each group of the row: rms: x / sqrt(mean(x^2) + eps); layer: (x - mean) / sqrt(var + "
        "eps); l2: x / max(sqrt(sum(x^2)), eps). Then times weight, plus bias; both of width/groups values "
        "shared by all groups, or of width values.",
        ("x",),
        ("weight?", "bias?"),
        {
            "kind": Attr("str", "rms", ("rms", "layer", "l2")),
            "eps": Attr("float"),
            "groups": Attr("int", 1),
        },
    ),
    "linear": OpSpec("x @ weight.T + bias; weight (n_out, n_in).", ("x",), ("weight", "bias?")),
    "linear_groups": OpSpec(
        "Per group: x[g] @ weight[g].T; weight (groups, n_out, n_in); the value holds groups * n_out.",
        ("x",),
        ("weight",),
        {"groups": Attr("int")},
    ),
    "affine": OpSpec(
        "x * factor * weight + bias; weight and bias of width values, or of one.",
        ("x",),
        ("weight?", "bias?"),
        {"factor": Attr("float", 1.0)},
    ),
    "rope": OpSpec(
        "Rotate pairs of each head by position * inv_freq[i] (of the table; divided by factors[i] if "
        "given), cos and sin times the table's mscale. interleaved: pairs (2i, 2i+1); neox: pairs (i, i + "
        "n) with n the table's length. Values past the 2 n rotated ones stay.",
        ("x",),
        ("factors?",),
        {
            "groups": Attr("int"),
            "kind": Attr("str", "neox", ("neox", "interleaved")),
            "table": Attr("table"),
        },
    ),
    "position_scale": OpSpec(
        "x * (1 + beta * log(1 + floor(position / length))).",
        ("x",),
        (),
        {"beta": Attr("float"), "length": Attr("int")},
    ),
    "attention": OpSpec(
        "softmax(q . k * scale, softcapped, masked) v per query head, grouped-query. k and v are appended "
        "to cache `cache` first. window > 0: a token sees itself and the window-1 before it. causal=False: "
        "every token of the sequence in this batch (cache=-1), with a window those less than it away. sinks "
        "(n_heads,): one extra logit per head that takes probability and adds no value. distance_bias "
        "(n_buckets, n_heads), causal=False only: added to the logits by the bucket of the distance between "
        "query and key (T5, arXiv 1910.10683); the second half of the buckets is for later keys, and within "
        "a half they widen from n_buckets / 4 up to max_distance. max_bias > 0: ALiBi (arXiv 2108.12409), "
        "bias_scale * slope * distance is subtracted from each logit. The slope of head h is "
        "2^(-max_bias (h + 1) / n), with n the largest power of 2 up to n_heads; heads n + i have the "
        "slopes between, 2^(-max_bias (2 i + 1) / (2 n)).",
        ("q", "k", "v"),
        ("sinks?", "distance_bias?"),
        {
            "cache": Attr("int"),
            "n_heads": Attr("int"),
            "scale": Attr("float"),
            "window": Attr("int", 0),
            "softcap": Attr("float", 0.0),
            "causal": Attr("bool", True),
            "max_distance": Attr("int", 0),
            "max_bias": Attr("float", 0.0),
            "bias_scale": Attr("float", 1.0),
        },
    ),
    "attention_shared": OpSpec(
        "As attention, over a cache that an earlier op of this step has filled.",
        ("q",),
        ("sinks?",),
        {
            "cache": Attr("int"),
            "n_heads": Attr("int"),
            "scale": Attr("float"),
            "window": Attr("int", 0),
            "softcap": Attr("float", 0.0),
        },
    ),
    "glu": OpSpec(
        "activation(gate) * up. swiglu_oai: gate clamped above at `limit`, up to [-limit, limit], gate * "
        "sigmoid(alpha * gate) * (up + 1).",
        ("gate", "up"),
        (),
        {
            "activation": Attr("str", "silu", (*ACTIVATIONS, "swiglu_oai")),
            "limit": Attr("float", 0.0),
            "alpha": Attr("float", 1.0),
        },
    ),
    "activation": OpSpec(
        "fn(x), value by value. xielu (arXiv 2411.13010): alpha_p x^2 + beta x above 0, alpha_n (e^x - 1 - "
        "x) + beta x below; only it has these numbers.",
        ("x",),
        (),
        {
            "fn": Attr("str", None, (*ACTIVATIONS, "xielu")),
            "alpha_p": Attr("float", 0.0),
            "alpha_n": Attr("float", 0.0),
            "beta": Attr("float", 0.0),
        },
    ),
    "add": OpSpec("a + b.", ("a", "b")),
    "mul": OpSpec(
        "a * b; b as wide as a, or with one value per group of a (groups = b's width).", ("a", "b")
    ),
    "softcap": OpSpec("tanh(x / cap) * cap.", ("x",), (), {"cap": Attr("float")}),
    "slice": OpSpec(
        "Values start .. start+size of each of `groups` groups.",
        ("x",),
        (),
        {"groups": Attr("int", 1), "start": Attr("int"), "size": Attr("int")},
    ),
    "concat": OpSpec(
        "Per group, a's values then b's. An input with repeat_*=True holds one group that all groups share.",
        ("a", "b"),
        (),
        {"groups": Attr("int", 1), "repeat_a": Attr("bool", False), "repeat_b": Attr("bool", False)},
    ),
    "repeat": OpSpec(
        "Repeat groups: interleave: each group `times` times in a row; else the whole row `times` times.",
        ("x",),
        (),
        {"groups": Attr("int"), "times": Attr("int"), "interleave": Attr("bool", True)},
    ),
    "moe": OpSpec(
        "Mixture of experts. Probabilities from the router's logits (softmax, sigmoid, softmax over the "
        "chosen, or sparse_mixer, below); the n_used largest of probability + selection_bias are chosen "
        "(first the n_groups_used best of n_groups expert groups by the sum of their two best, or by their "
        "best where group_score=max); their probabilities are divided by their sum if normalize, and times "
        "`factor` and expert_scale (n_experts,) of each. A chosen expert computes down(activation(gate x) * "
        "up x), without a gate down(activation(up x)). gate, up: (n_experts, n_ff, width); down: (n_experts, "
        "width, n_ff). gate_up: both in one tensor (n_experts, 2 n_ff, width), gate rows first. sparse_mixer "
        "(arXiv 2409.12136): experts are chosen in turn by their logits; each one's probability is its "
        "softmax among those left whose logit s is near the best one's, m - s <= 2 jitter max(|s|, m).",
        ("x", "router"),
        (
            *("gate?", "up?", "gate_up?", "down", "gate_bias?", "up_bias?", "down_bias?"),
            *("selection_bias?", "expert_scale?"),
        ),
        {
            "n_used": Attr("int"),
            "gating": Attr("str", "softmax", ("softmax", "sigmoid", "softmax_chosen", "sparse_mixer")),
            "normalize": Attr("bool", False),
            "factor": Attr("float", 1.0),
            "n_groups": Attr("int", 1),
            "n_groups_used": Attr("int", 1),
            "group_score": Attr("str", "top2", ("top2", "max")),
            "activation": Attr("str", "silu", (*ACTIVATIONS, "swiglu_oai")),
            "limit": Attr("float", 0.0),
            "alpha": Attr("float", 1.0),
            "jitter": Attr("float", 0.0),
        },
    ),
    "short_conv": OpSpec(
        "Causal depthwise convolution over the sequence: out[t] = sum_j weight[:, j] * x[t - n + 1 + j], n "
        "taps, weight (width, n), plus bias; then `activation` (or none). The last n-1 rows are the "
        "sequence's state.",
        ("x",),
        ("weight", "bias?"),
        {"state": Attr("int"), "activation": Attr("str", "none", ("none", "silu"))},
    ),
    "gated_delta": OpSpec(
        "Gated delta rule (arXiv 2412.06464). Per value head h with key head h // (n_heads / n_key_heads), "
        "or h % n_key_heads where tiled: S *= exp(decay); S += k (beta * (v - S^T k))^T; out = S^T (q * "
        "scale). decay, beta: one value per head.",
        ("q", "k", "v", "decay", "beta"),
        (),
        {
            "state": Attr("int"),
            "n_heads": Attr("int"),
            "n_key_heads": Attr("int"),
            "scale": Attr("float"),
            "tiled": Attr("bool", False),
        },
    ),
    "ssm": OpSpec(
        "Mamba-2 scan (arXiv 2405.21060). Per head: dt = softplus(dt + dt_bias); S = exp(dt * a) S + dt x "
        "b^T; out = S c + d x. b and c: n_groups x d_state, head h uses group h // (n_heads / n_groups). a "
        "(already negative), d, dt_bias: (n_heads,).",
        ("x", "b", "c", "dt"),
        ("a", "d", "dt_bias"),
        {"state": Attr("int"), "n_heads": Attr("int"), "n_groups": Attr("int"), "d_state": Attr("int")},
    ),
}


class Op(NamedTuple):
    """One step of a program: `out = kind(ins, weights by role, attrs)`; attrs hold every attribute."""

    kind: str
    out: str
    ins: tuple[str, ...]
    weights: dict[str, str]
    attrs: dict[str, AttrValue]


class RopeTable(NamedTuple):
    """Rotation frequencies: angle of pair i at position p is p * inv_freq[i]; cos and sin times mscale."""

    name: str
    inv_freq: tuple[float, ...]
    mscale: float = 1.0


class CacheSpec(NamedTuple):
    """Key/value cache of one layer; window > 0: only the last `window` tokens are read."""

    n_kv_heads: int
    key_dim: int
    value_dim: int
    window: int = 0


class StateSpec(NamedTuple):
    """Recurrent state of a sequence: `size` float32 values."""

    kind: Literal["short_conv", "gated_delta", "ssm"]
    size: int


class Program(NamedTuple):
    """A whole model: ops in order, the shapes of its values and weights, and its state.

    hidden: the value after the final norm. logits: the value (n_tokens, n_vocab), None for an encoder.
    pooling: the way from `hidden` to one embedding: mean, cls or last; rank: `hidden` holds scores, and the
    text's are those of its first token, or of its last one where there are logits.
    """

    family: str
    n_vocab: int
    width: int
    n_layers: int
    n_ctx_train: int
    ops: tuple[Op, ...]
    widths: dict[str, int]
    weights: dict[str, tuple[int, ...]]
    tables: dict[str, RopeTable]
    caches: tuple[CacheSpec, ...]
    states: tuple[StateSpec, ...]
    hidden: str
    logits: str | None
    pooling: str = "mean"

    @property
    def is_encoder(self) -> bool:
        """True for a model that keeps nothing of a text between steps, and reads it whole in one."""
        return self.logits is None and not self.caches

    @property
    def last_writer(self) -> int:
        """Index of the last op that writes to a sequence, or in which rows of a text meet; -1: none.

        After it only rows whose results are wanted need to be computed.
        """
        writers = ("attention", "short_conv", "gated_delta", "ssm")
        return max((i for i, op in enumerate(self.ops) if op.kind in writers), default=-1)
