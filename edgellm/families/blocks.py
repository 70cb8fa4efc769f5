"""Blocks of model families, driven by frozen data: attention, feed-forward, experts, head.

A block reads tensors by GGUF's names: `prefix` is "blk.3", a tensor's name is `prefix`, a part's name, and
".weight" or ".bias". A bias is used if the file has it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

from edgellm.families.source import Norm, Source
from edgellm.program import Builder, Program
from edgellm.program.builder import Gating, NormKind, RopeKind


class Rope(NamedTuple):
    """Rotation of query and key heads: its table, its order of pairs, its tensor of factors."""

    table: str
    kind: RopeKind = "neox"
    factors: str | None = None


class DistanceBias(NamedTuple):
    """Bias of attention by the bucket of the distance between query and key: its weight and its sizes."""

    weight: str
    n_buckets: int
    max_distance: int


class Attention(NamedTuple):
    """Attention of one layer.

    qk_norm: normalization of query and key heads with shared weights ("head"), with weights of each head
    ("heads"), or of whole rows ("row"); `norm_last` applies it after the rotation. gated: a query head is
    followed by as many values whose sigmoid multiplies the head's result. stretch: beta and length by which
    queries grow with their position (`position_scale`). causal: false where every token sees the whole text.
    max_bias, bias_scale: of ALiBi; a `max_bias` of 0 is none. out_norm: of the heads' results, before the
    output projection.
    """

    n_heads: int
    n_kv_heads: int
    head_dim: int
    value_dim: int
    scale: float
    rope: Rope | None
    window: int = 0
    softcap: float = 0.0
    qk_norm: Literal["head", "heads", "row"] | None = None
    norm: Norm | None = None
    norm_last: bool = False
    gated: bool = False
    sinks: bool = False
    stretch: tuple[float, int] | None = None
    causal: bool = True
    max_bias: float = 0.0
    bias_scale: float = 1.0
    out_norm: Norm | None = None
    bias: DistanceBias | None = None


class Experts(NamedTuple):
    """Mixture of experts of one layer.

    n_ff_shared: hidden width of the expert that runs for every token. shared_gate: the sigmoid of one value
    multiplies that expert's row. gated: False for plain experts. n_latent: width of the rows that the chosen
    experts read and make, projections of the layer's; 0: they work on the layer's rows. jitter: of the gating
    `sparse_mixer`.
    """

    n_experts: int
    n_used: int
    n_ff: int
    gating: Gating = "softmax"
    normalize: bool = False
    factor: float = 1.0
    n_groups: int = 1
    n_groups_used: int = 1
    group_score: Literal["top2", "max"] = "top2"
    activation: str = "silu"
    limit: float = 0.0
    alpha: float = 1.0
    n_ff_shared: int = 0
    shared_gate: bool = False
    gated: bool = True
    n_latent: int = 0
    jitter: float = 0.0


class DeltaNet(NamedTuple):
    """Gated delta rule of one layer: key and value heads, their sizes, the convolution's taps.

    tiled: value head h belongs to key head h % n_key_heads; otherwise the value heads of one key head are
    neighbours.
    """

    n_heads: int
    n_key_heads: int
    key_dim: int
    value_dim: int
    n_taps: int
    tiled: bool
    norm: Norm


class Mamba2(NamedTuple):
    """State-space mixer of one layer: sizes of its inner row, heads, groups, state and convolution.

    normed: the gated row is normalized by group.
    """

    inner: int
    n_heads: int
    n_groups: int
    d_state: int
    n_taps: int
    norm: Norm
    normed: bool = True


def heads(
    source: Source,
    layer: int,
    *,
    rope: Rope | None,
    scale: float | None = None,
    window: int = 0,
    softcap: float = 0.0,
    qk_norm: Literal["head", "heads", "row"] | None = None,
    norm: Norm | None = None,
    norm_last: bool = False,
    gated: bool = False,
    sinks: bool = False,
) -> Attention:
    """Attention of layer `layer`, with the head counts and sizes of the metadata."""
    default_scale = source.metadata.number("attention.scale", source.head_dim**-0.5)
    return Attention(
        n_heads=source.n_heads[layer],
        n_kv_heads=source.n_kv_heads[layer],
        head_dim=source.head_dim,
        value_dim=source.value_dim,
        scale=default_scale if scale is None else scale,
        rope=rope,
        window=window,
        softcap=softcap,
        qk_norm=qk_norm,
        norm=norm,
        norm_last=norm_last,
        gated=gated,
        sinks=sinks,
    )


def embed(b: Builder, scale: float = 1.0) -> str:
    """Rows of the token embedding, scaled."""
    x = b.embed("token_embd.weight", b.n_vocab, b.width)
    return x if scale == 1.0 else b.affine(x, factor=scale)


def add(b: Builder, x: str, y: str, scale: float = 1.0) -> str:
    """x + scale * y."""
    return b.add(x, y if scale == 1.0 else b.affine(y, factor=scale))


def linear(b: Builder, x: str, part: str, n_out: int) -> str:
    """Product with the matrix `part`.weight, plus `part`.bias if the file has it."""
    return b.linear(x, f"{part}.weight", n_out, bias=_optional(b, f"{part}.bias"))


def norm(b: Builder, x: str, part: str, how: Norm, *, groups: int = 1, shared: bool = True) -> str:
    """Normalize x with weight `part`.weight, and `part`.bias if the file has it."""
    return b.norm(
        x,
        kind=cast(NormKind, how.kind),
        eps=how.eps,
        groups=groups,
        weight=f"{part}.weight",
        bias=_optional(b, f"{part}.bias"),
        shared=shared,
    )


def attention(b: Builder, x: str, prefix: str, a: Attention) -> str:
    """Query, key and value projections, norms, rotation, attention, output projection."""
    q, k, v = projections(b, x, prefix, a)
    gate = ""
    if a.gated:
        gate = b.slice(q, a.head_dim, a.head_dim, groups=a.n_heads)
        q = b.slice(q, 0, a.head_dim, groups=a.n_heads)
    if a.qk_norm and not a.norm_last:
        q, k = _norm_heads(b, q, k, prefix, a)
    if a.rope:
        q = rotate(b, q, a.n_heads, a.rope)
        k = rotate(b, k, a.n_kv_heads, a.rope)
    if a.qk_norm and a.norm_last:
        q, k = _norm_heads(b, q, k, prefix, a)
    if a.stretch:
        q = b.position_scale(q, *a.stretch)
    out = b.attention(
        q,
        k,
        v,
        cache=b.cache(a.n_kv_heads, a.head_dim, a.value_dim, a.window) if a.causal else -1,
        n_heads=a.n_heads,
        scale=a.scale,
        window=a.window,
        softcap=a.softcap,
        sinks=f"{prefix}.attn_sinks.weight" if a.sinks else None,
        causal=a.causal,
        distance_bias=a.bias.weight if a.bias else None,
        n_buckets=a.bias.n_buckets if a.bias else 0,
        max_distance=a.bias.max_distance if a.bias else 0,
        max_bias=a.max_bias,
        bias_scale=a.bias_scale,
    )
    if gate:
        out = b.mul(out, b.activation(gate, "sigmoid"))
    if a.out_norm:
        out = norm(b, out, f"{prefix}.attn_sub_norm", a.out_norm)
    return linear(b, out, f"{prefix}.attn_output", b.width)


def projections(b: Builder, x: str, prefix: str, a: Attention) -> tuple[str, str, str]:
    """Query, key and value rows, from three matrices or from one that holds their rows in this order."""
    n_query = a.n_heads * a.head_dim * (2 if a.gated else 1)
    sizes = (n_query, a.n_kv_heads * a.head_dim, a.n_kv_heads * a.value_dim)
    if not b.has(f"{prefix}.attn_qkv.weight"):
        q, k, v = (
            linear(b, x, f"{prefix}.attn_{part}", size) for part, size in zip("qkv", sizes, strict=True)
        )
        return q, k, v
    qkv = linear(b, x, f"{prefix}.attn_qkv", sum(sizes))
    return (
        b.slice(qkv, 0, sizes[0]),
        b.slice(qkv, sizes[0], sizes[1]),
        b.slice(qkv, sizes[0] + sizes[1], sizes[2]),
    )


def rotate(b: Builder, x: str, groups: int, rope: Rope) -> str:
    """Rotate every head of x."""
    return b.rope(x, groups=groups, table=rope.table, kind=rope.kind, factors=rope.factors)


def _norm_heads(b: Builder, q: str, k: str, prefix: str, a: Attention) -> tuple[str, str]:
    assert a.norm is not None
    row = a.qk_norm == "row"
    shared = a.qk_norm != "heads"
    q = norm(b, q, f"{prefix}.attn_q_norm", a.norm, groups=1 if row else a.n_heads, shared=shared)
    k = norm(b, k, f"{prefix}.attn_k_norm", a.norm, groups=1 if row else a.n_kv_heads, shared=shared)
    return q, k


def glu(
    b: Builder,
    x: str,
    prefix: str,
    n_ff: int,
    activation: str = "silu",
    *,
    fused: bool = False,
    inner_norm: Norm | None = None,
) -> str:
    """Gated feed-forward: down(activation(gate x) * up x).

    fused: one matrix holds gate, then up. inner_norm: of the rows that `down` multiplies.
    """
    if fused:
        both = linear(b, x, f"{prefix}.ffn_up", 2 * n_ff)
        gate, up = b.slice(both, 0, n_ff), b.slice(both, n_ff, n_ff)
    else:
        gate = linear(b, x, f"{prefix}.ffn_gate", n_ff)
        up = linear(b, x, f"{prefix}.ffn_up", n_ff)
    y = b.glu(gate, up, activation=activation)
    if inner_norm:
        y = norm(b, y, f"{prefix}.ffn_sub_norm", inner_norm)
    return linear(b, y, f"{prefix}.ffn_down", b.width)


def mlp(b: Builder, x: str, prefix: str, n_ff: int, activation: str) -> str:
    """Plain feed-forward: down(activation(up x))."""
    up = linear(b, x, f"{prefix}.ffn_up", n_ff)
    return linear(b, b.activation(up, activation), f"{prefix}.ffn_down", b.width)


def experts(b: Builder, x: str, prefix: str, e: Experts, *, routed: str = "") -> str:
    """Router and experts; `ffn_gate_up_exps` is used if the file holds gate and up as one tensor.

    routed: rows for the router, where they are not x.
    """
    rows = linear(b, x, f"{prefix}.ffn_latent_down", e.n_latent) if e.n_latent else x
    router = linear(b, routed or x, f"{prefix}.ffn_gate_inp", e.n_experts)
    fused = b.has(f"{prefix}.ffn_gate_up_exps.weight")
    out = b.moe(
        rows,
        router,
        n_ff=e.n_ff,
        n_used=e.n_used,
        gate_up=f"{prefix}.ffn_gate_up_exps.weight" if fused else None,
        gate=f"{prefix}.ffn_gate_exps.weight" if e.gated and not fused else None,
        up=None if fused else f"{prefix}.ffn_up_exps.weight",
        down=f"{prefix}.ffn_down_exps.weight",
        gate_bias=_optional(b, f"{prefix}.ffn_gate_exps.bias"),
        up_bias=_optional(b, f"{prefix}.ffn_up_exps.bias"),
        down_bias=_optional(b, f"{prefix}.ffn_down_exps.bias"),
        selection_bias=_optional(b, f"{prefix}.exp_probs_b.bias"),
        expert_scale=_optional(b, f"{prefix}.ffn_down_exps.scale"),
        gating=e.gating,
        normalize=e.normalize,
        factor=e.factor,
        n_groups=e.n_groups,
        n_groups_used=e.n_groups_used,
        group_score=e.group_score,
        activation=e.activation,
        limit=e.limit,
        alpha=e.alpha,
        jitter=e.jitter,
    )
    shared = _shared_expert(b, x, prefix, e) if e.n_ff_shared else ""
    if e.n_latent:
        out = linear(b, out, f"{prefix}.ffn_latent_up", b.width)
    return b.add(out, shared) if shared else out


def _shared_expert(b: Builder, x: str, prefix: str, e: Experts) -> str:
    """Row of the expert that runs for every token."""
    y = linear(b, x, f"{prefix}.ffn_up_shexp", e.n_ff_shared)
    if e.gated:
        gate = linear(b, x, f"{prefix}.ffn_gate_shexp", e.n_ff_shared)
        y = b.glu(gate, y, activation=e.activation)
    else:
        y = b.activation(y, e.activation)
    y = linear(b, y, f"{prefix}.ffn_down_shexp", b.width)
    if not e.shared_gate:
        return y
    return b.mul(y, b.activation(linear(b, x, f"{prefix}.ffn_gate_inp_shexp", 1), "sigmoid"))


def delta_net(b: Builder, x: str, prefix: str, d: DeltaNet) -> str:
    """Convolved query, key and value rows; decay and beta of each value head; delta rule; gated norm."""
    n_key, n_value = d.n_key_heads * d.key_dim, d.n_heads * d.value_dim
    rows = linear(b, x, f"{prefix}.attn_qkv", 2 * n_key + n_value)
    rows = b.short_conv(rows, f"{prefix}.ssm_conv1d.weight", d.n_taps, activation="silu")
    q, k = (
        b.norm(b.slice(rows, start, n_key), kind="l2", eps=d.norm.eps, groups=d.n_key_heads)
        for start in (0, n_key)
    )
    beta, alpha = _beta_alpha(b, x, prefix, d)
    alpha = b.affine(alpha, bias=f"{prefix}.ssm_dt.bias")
    y = b.gated_delta(
        q,
        k,
        b.slice(rows, 2 * n_key, n_value),
        b.affine(b.activation(alpha, "softplus"), weight=f"{prefix}.ssm_a"),
        b.activation(beta, "sigmoid"),
        n_heads=d.n_heads,
        n_key_heads=d.n_key_heads,
        scale=d.key_dim**-0.5,
        tiled=d.tiled,
    )
    y = norm(b, y, f"{prefix}.ssm_norm", d.norm, groups=d.n_heads)
    gate = linear(b, x, f"{prefix}.attn_gate", n_value)
    return linear(b, b.glu(gate, y), f"{prefix}.ssm_out", b.width)


def _beta_alpha(b: Builder, x: str, prefix: str, d: DeltaNet) -> tuple[str, str]:
    """Beta and alpha of each value head, from two matrices or from one that holds both by key head."""
    if not b.has(f"{prefix}.ssm_ba.weight"):
        beta = linear(b, x, f"{prefix}.ssm_beta", d.n_heads)
        return beta, linear(b, x, f"{prefix}.ssm_alpha", d.n_heads)
    both = linear(b, x, f"{prefix}.ssm_ba", 2 * d.n_heads)
    per_key = d.n_heads // d.n_key_heads
    return (
        b.slice(both, 0, per_key, groups=d.n_key_heads),
        b.slice(both, per_key, per_key, groups=d.n_key_heads),
    )


def mamba2(b: Builder, x: str, prefix: str, m: Mamba2) -> str:
    """Gate, convolved x, B and C, and the time step from one matrix; scan; gated norm by group."""
    n_bc = m.n_groups * m.d_state
    n_conv = m.inner + 2 * n_bc
    rows = linear(b, x, f"{prefix}.ssm_in", m.inner + n_conv + m.n_heads)
    gate = b.slice(rows, 0, m.inner)
    conv = b.short_conv(
        b.slice(rows, m.inner, n_conv),
        f"{prefix}.ssm_conv1d.weight",
        m.n_taps,
        bias=_optional(b, f"{prefix}.ssm_conv1d.bias"),
        activation="silu",
    )
    y = b.ssm(
        b.slice(conv, 0, m.inner),
        b.slice(conv, m.inner, n_bc),
        b.slice(conv, m.inner + n_bc, n_bc),
        b.slice(rows, m.inner + n_conv, m.n_heads),
        a=f"{prefix}.ssm_a",
        d=f"{prefix}.ssm_d",
        dt_bias=f"{prefix}.ssm_dt.bias",
        n_heads=m.n_heads,
        n_groups=m.n_groups,
        d_state=m.d_state,
    )
    y = b.glu(gate, y)
    if m.normed:
        y = norm(b, y, f"{prefix}.ssm_norm", m.norm, groups=m.n_groups, shared=False)
    return linear(b, y, f"{prefix}.ssm_out", b.width)


def head(
    source: Source,
    b: Builder,
    x: str,
    how: Norm,
    *,
    scale: float = 1.0,
    softcap: float = 0.0,
    part: str = "output_norm",
) -> Program:
    """Final norm and projection to the vocabulary, by a matrix of its own or by the token embedding.

    A model that ranks texts has scores of its answers instead, such as yes and no.
    """
    hidden = norm(b, x, part, how)
    if source.pooling == "rank":
        scores = linear(b, hidden, "cls.output", source.tensors.get("cls.output.weight", (0,))[0])
        return b.build(hidden=scores, logits=None, pooling="rank")
    weight = "output.weight" if b.has("output.weight") else "token_embd.weight"
    logits = b.linear(hidden, weight, b.n_vocab, bias=_optional(b, "output.bias"))
    if scale != 1.0:
        logits = b.affine(logits, factor=scale)
    if softcap:
        logits = b.softcap(logits, softcap)
    return b.build(hidden=hidden, logits=logits, pooling=source.pooling)


def encoded(source: Source, b: Builder, x: str) -> Program:
    """Program of an encoder: its rows or, if it ranks texts, their scores by a head."""
    if source.pooling == "rank":
        if b.has("cls.weight"):
            x = b.activation(linear(b, x, "cls", b.width), "tanh")
        n_labels = source.tensors.get("cls.output.weight", (0,))[0]
        x = linear(b, x, "cls.output", n_labels)
    return b.build(hidden=x, logits=None, pooling=source.pooling)


def _optional(b: Builder, name: str) -> str | None:
    return name if b.has(name) else None
