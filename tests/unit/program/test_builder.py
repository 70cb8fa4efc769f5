"""Builder: refuses what does not fit at the op that needs it."""

from __future__ import annotations

import pytest

from edgellm.errors import ModelError
from edgellm.program import Builder, check
from tests.unit.program.small import small_program


def _builder(**tensors: tuple[int, ...]) -> Builder:
    shapes = {"embd": (5, 8)} | {name.replace("_", "."): shape for name, shape in tensors.items()}
    return Builder("small", n_vocab=5, width=8, n_layers=1, n_ctx_train=16, tensors=shapes)


def test_missing_tensor_is_named_with_its_shape() -> None:
    b = _builder()
    with pytest.raises(
        ModelError, match=r"'q\.weight' is missing.*small family expects it with shape \(3, 8\)"
    ):
        b.linear(b.embed("embd", 5, 8), "q.weight", 3)


def test_wrong_shape_is_named() -> None:
    b = _builder(q_weight=(4, 8))
    with pytest.raises(ModelError, match=r"'q\.weight' has shape \(4, 8\).*expects \(3, 8\)"):
        b.linear(b.embed("embd", 5, 8), "q.weight", 3)


def test_vectors_may_be_stored_as_columns_and_matrices_of_one_row_flat() -> None:
    b = _builder(d=(8, 1), gate=(8,))
    x = b.affine(b.embed("embd", 5, 8), weight="d")
    y = b.linear(x, "gate", 1)
    program = b.build(hidden=x, logits=b.linear(b.mul(x, y), "embd", 5))
    assert program.weights == {"embd": (5, 8), "d": (8,), "gate": (1, 8)}


def test_one_weight_has_one_shape() -> None:
    b = Builder("small", n_vocab=5, width=8, n_layers=1, n_ctx_train=16)
    x = b.embed("embd", 5, 8)
    with pytest.raises(ModelError, match=r"'embd' is used with shape \(4, 8\) and with shape \(5, 8\)"):
        b.linear(x, "embd", 4)


def test_ops_are_refused_with_their_names() -> None:
    b = Builder("small", n_vocab=5, width=8, n_layers=1, n_ctx_train=16)
    x = b.embed("embd", 5, 8)
    with pytest.raises(ModelError, match=r"slice \(x1\): size=5, expected 1 to 4"):
        b.slice(x, 0, 5, groups=2)
    with pytest.raises(ModelError, match=r"norm \(x1\): x has width 8, which 3 groups do not divide"):
        b.norm(x, kind="rms", eps=1e-5, groups=3)
    with pytest.raises(ModelError, match=r"activation \(x1\): fn='swish', expected one of silu"):
        b.activation(x, "swish")
    with pytest.raises(ModelError, match=r"softcap \(x1\): cap=0.0, expected more than 0"):
        b.softcap(x, 0.0)


def test_experts_need_matching_roles() -> None:
    b = Builder("small", n_vocab=5, width=8, n_layers=1, n_ctx_train=16)
    x = b.embed("embd", 5, 8)
    router = b.linear(x, "router", 4)
    with pytest.raises(ModelError, match="neither gate_up nor up"):
        b.moe(x, router, n_ff=3, n_used=2, down="down", gate="gate")
    with pytest.raises(ModelError, match="gate_up beside gate or up"):
        b.moe(x, router, n_ff=3, n_used=2, down="down", gate_up="gate_up", up="up")
    with pytest.raises(ModelError, match="n_used=5, expected 1 to 4"):
        b.moe(x, router, n_ff=3, n_used=5, down="down", gate_up="gate_up")


def test_check_refuses_state_used_twice() -> None:
    program = small_program()
    conv = next(op for op in program.ops if op.kind == "short_conv")
    again = conv._replace(out="x99")
    doubled = program._replace(ops=(*program.ops, again), widths=program.widths | {"x99": 8})
    with pytest.raises(ModelError, match="state 0, which belongs to an earlier operation"):
        check(doubled)


def test_check_refuses_a_shared_cache_before_it_is_filled() -> None:
    b = Builder("small", n_vocab=5, width=8, n_layers=1, n_ctx_train=16)
    x = b.embed("embd", 5, 8)
    cache = b.cache(1, 4, 4)
    y = b.attention_shared(x, cache=cache, n_heads=2, scale=1.0)
    with pytest.raises(ModelError, match="reads cache 0, which no earlier attention fills"):
        b.build(hidden=y, logits=None)
