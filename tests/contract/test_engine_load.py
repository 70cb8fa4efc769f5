"""Loading the native engine's weights: a tensor that is missing or not as planned is named in the refusal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm import _native
from edgellm.gguf.types import GGMLType
from edgellm.program import to_text
from edgellm.program.builder import Builder

F32, F16 = int(GGMLType.F32), int(GGMLType.F16)
WIDTH, N_VOCAB, N_PAIRS = 32, 40, 8
Tensor = tuple[str, int, NDArray[np.uint8]]
SHAPES = {
    "embd": (N_VOCAB, WIDTH),
    "qkv": (3 * WIDTH, WIDTH),
    "factors": (N_PAIRS,),
    "norm": (WIDTH,),
}
PLANNED = [(name, F32) for name in SHAPES]


def _program() -> str:
    """Text of one attention layer with a rope whose frequencies are divided by a weight."""
    b = Builder("llama", n_vocab=N_VOCAB, width=WIDTH, n_layers=1, n_ctx_train=64, tensors=SHAPES)
    cache = b.cache(2, 16, 16)
    table = b.table("rope", [10.0**-i for i in range(N_PAIRS)])
    x = b.embed("embd", N_VOCAB, WIDTH)
    qkv = b.linear(x, "qkv", 3 * WIDTH)
    q, k, v = (b.slice(qkv, i * WIDTH, WIDTH) for i in range(3))
    q, k = (b.rope(part, table=table, groups=2, factors="factors") for part in (q, k))
    x = b.add(x, b.attention(q, k, v, cache=cache, n_heads=2, scale=0.25))
    hidden = b.norm(x, kind="rms", eps=1e-5, weight="norm")
    return to_text(b.build(hidden=hidden, logits=b.linear(hidden, "embd", N_VOCAB)))


def _tensors() -> list[Tensor]:
    rng = np.random.default_rng(5)
    values = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    values["factors"] = np.linspace(1.0, 9.0, N_PAIRS, dtype=np.float32)
    return [(name, F32, array.reshape(-1).view(np.uint8)) for name, array in values.items()]


def _engine(types: Sequence[tuple[str, int]] = PLANNED, text: str = "") -> _native.Engine:
    return _native.Engine(
        text or _program(),
        types,
        threads=2,
        context=64,
        cache_tokens=64,
        batch=16,
        kv_type="f32",
        isa="scalar",
    )


def _logits(engine: _native.Engine) -> NDArray[np.float32]:
    ids = np.arange(9, dtype=np.int32)
    sequence = engine.open_sequence()
    every = np.ones(9, np.uint8)
    logits = np.array(engine.step(ids, np.full(9, sequence, np.int32), every), np.float32)
    engine.close_sequence(sequence)
    return logits


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ([(name, F32) for name in SHAPES if name != "factors"], "the tensor factors is missing"),
        ([(name, 999 if name == "norm" else F32) for name in SHAPES], "the tensor norm has type number 999"),
    ],
)
def test_a_plan_names_a_tensor_without_a_format(types: list[tuple[str, int]], message: str) -> None:
    with pytest.raises(_native.ModelError, match=message):
        _engine(types)


@pytest.mark.parametrize(
    ("name", "replacement", "message"),
    [
        ("qkv", None, "the tensor qkv is missing"),
        ("factors", None, "the tensor factors is missing"),
        ("norm", (F16, 2 * WIDTH), "the tensor norm is not of the type that was planned"),
        ("embd", (F32, 4 * N_VOCAB * WIDTH - 4), "the tensor embd has 5116 bytes, expected 5120"),
        ("qkv", (F32, 0), "the tensor qkv has 0 bytes, expected 12288"),
    ],
)
def test_a_load_names_a_tensor_that_is_not_as_planned(
    name: str, replacement: tuple[int, int] | None, message: str
) -> None:
    engine = _engine()
    tensors = [tensor for tensor in _tensors() if tensor[0] != name]
    if replacement is not None:
        tensors.append((name, replacement[0], np.zeros(replacement[1], np.uint8)))
    with pytest.raises(_native.ModelError, match=message):
        engine.load(tensors)
    with pytest.raises(RuntimeError, match="no weights yet"):
        engine.open_sequence()
    engine.load(_tensors())
    np.testing.assert_array_equal(_logits(engine), _logits(_loaded()))


def _loaded() -> _native.Engine:
    engine = _engine()
    engine.load(_tensors())
    return engine


def test_tensors_may_come_in_any_order_and_with_others() -> None:
    engine = _engine()
    engine.load([("unknown", F32, np.zeros(4, np.uint8)), *reversed(_tensors())])
    np.testing.assert_array_equal(_logits(engine), _logits(_loaded()))


def test_a_second_load_gives_the_same_logits() -> None:
    engine = _loaded()
    first = _logits(engine)
    engine.load(_tensors())
    np.testing.assert_array_equal(_logits(engine), first)


@pytest.mark.parametrize("start", [-1, 2 * WIDTH + 1, 2**31, 2**63 - 1])
@pytest.mark.parametrize(("source", "width"), [("x1", 3 * WIDTH), ("x0", WIDTH)])
def test_a_slice_outside_its_input_is_refused(source: str, width: int, start: int) -> None:
    """Of a product that only slices read, and of another value."""
    valid = f"slice x1 groups=1 start={2 * WIDTH} size={WIDTH}"
    assert valid in _program()
    text = _program().replace(valid, f"slice {source} groups=1 start={start} size={WIDTH}")
    message = rf"columns \[start, start \+ size\) leave its input of {width}"
    with pytest.raises(_native.ModelError, match=message):
        _engine(text=text)
