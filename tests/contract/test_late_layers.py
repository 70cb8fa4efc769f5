"""Prompt tokens without logits stop after the last op that writes to a sequence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm import _native
from edgellm.families import build, plan
from edgellm.gguf.types import GGMLType
from edgellm.program import Program, to_text
from edgellm.program.builder import Builder
from edgellm.program.interpreter import Interpreter
from tests.support.variants import variants
from tests.support.variants import weights as variant_weights

Array = NDArray[np.float32]

WIDTH, N_HEADS, N_FF, N_VOCAB = 32, 4, 48, 64
# Layers with a cache of their own, one local and one global, then three that share the two.
N_OWN, N_LAYERS = 2, 5
WINDOWS = (7, 0, 7, 7, 0)


def _shared_caches() -> Program:
    """A decoder whose last three layers read caches of the first two; positions matter in every layer."""
    b = Builder("test", n_vocab=N_VOCAB, width=WIDTH, n_layers=N_LAYERS, n_ctx_train=256, tensors=None)
    table = b.table("rope", [1.0, 0.3, 0.1, 0.03])
    x = b.embed("embd", N_VOCAB, WIDTH)
    caches: dict[int, int] = {}
    for i, window in enumerate(WINDOWS):
        y = b.norm(x, kind="rms", eps=1e-6)
        q = b.rope(b.linear(y, f"{i}.q", WIDTH), groups=N_HEADS, table=table)
        q = b.position_scale(q, 0.2, 5)
        if i < N_OWN:
            k = b.rope(b.linear(y, f"{i}.k", WIDTH // 2), groups=N_HEADS // 2, table=table)
            v = b.linear(y, f"{i}.v", WIDTH // 2)
            caches[window] = b.cache(N_HEADS // 2, 8, 8, window)
            y = b.attention(q, k, v, cache=caches[window], n_heads=N_HEADS, scale=0.35, window=window)
        else:
            y = b.attention_shared(q, cache=caches[window], n_heads=N_HEADS, scale=0.35, window=window)
        x = b.add(x, b.linear(y, f"{i}.o", WIDTH))
        y = b.norm(x, kind="rms", eps=1e-6)
        y = b.glu(b.linear(y, f"{i}.gate", N_FF), b.linear(y, f"{i}.up", N_FF))
        x = b.add(x, b.linear(y, f"{i}.down", WIDTH))
    hidden = b.norm(x, kind="rms", eps=1e-6)
    return b.build(hidden=hidden, logits=b.linear(hidden, "head", N_VOCAB))


def _experts_beside_attention() -> Program:
    """A layer that chooses its experts before its attention has run."""
    b = Builder("test", n_vocab=N_VOCAB, width=WIDTH, n_layers=1, n_ctx_train=256, tensors=None)
    x = b.embed("embd", N_VOCAB, WIDTH)
    y = b.norm(x, kind="rms", eps=1e-6)
    q, k, v = (b.linear(y, name, WIDTH) for name in "qkv")
    cache = b.cache(N_HEADS, 8, 8)
    attended = b.attention(q, k, v, cache=cache, n_heads=N_HEADS, scale=0.35)
    experts = b.moe(y, b.linear(y, "router", 6), n_ff=N_FF, n_used=2, gate="gate", up="up", down="down")
    x = b.add(b.add(x, b.linear(attended, "o", WIDTH)), experts)
    hidden = b.norm(x, kind="rms", eps=1e-6)
    return b.build(hidden=hidden, logits=b.linear(hidden, "head", N_VOCAB))


def _random(program: Program) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    return {
        name: (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)
        for name, shape in program.weights.items()
    }


def _of_variant(name: str) -> tuple[Program, dict[str, Array]]:
    """A family's program and weights, from the checkpoint that a variant describes."""
    variant = variants()[name]
    source = dict(variant_weights(variant.shapes, variant.seed))
    planned = plan(variant.config, variant.shapes)
    made = {
        t.name: np.ascontiguousarray(t.make.apply([source[key] for key in t.sources]), np.float32)
        for t in planned.tensors
    }
    metadata = {"general.architecture": planned.architecture, **planned.metadata}
    return build(metadata, {key: array.shape for key, array in made.items()}), made


def _cases() -> dict[str, tuple[Program, dict[str, Array]]]:
    """Programs with late layers of every kind, and families by their variants."""
    made = {"shared": _shared_caches(), "experts": _experts_beside_attention()}
    names = ("stablelm-parallel", "gemma4-capped", "gemma4_moe-small", "falcon_h1-plain", "qwen3_5-heads")
    return {name: (program, _random(program)) for name, program in made.items()} | {
        name: _of_variant(name) for name in names
    }


CASES = _cases()
N_TOKENS = 40


def _engine(program: Program, weights: dict[str, Array], threads: int, kv: str = "f16") -> _native.Engine:
    engine = _native.Engine(
        to_text(program),
        [(name, int(GGMLType.F32)) for name in program.weights],
        threads=threads,
        context=1024,
        cache_tokens=4096,
        batch=640,
        kv_type=kv,
        isa=_native.best_isa(),
    )
    engine.load(
        [(name, int(GGMLType.F32), weights[name].reshape(-1).view(np.uint8)) for name in program.weights]
    )
    return engine


def _ids(seed: int, n: int = N_TOKENS) -> list[int]:
    ids: list[int] = np.random.default_rng(seed).integers(0, N_VOCAB, n).tolist()
    return ids


def _step(engine: _native.Engine, parts: dict[int, list[int]], wanted: dict[int, Sequence[int]]) -> Array:
    """Logits of the wanted tokens of each sequence's part."""
    tokens = np.asarray([token for part in parts.values() for token in part], np.int32)
    owners = np.repeat(np.asarray(list(parts), np.int32), [len(part) for part in parts.values()])
    outputs = [
        int(i in wanted.get(sequence, ())) for sequence, part in parts.items() for i in range(len(part))
    ]
    return np.array(engine.step(tokens, owners, np.asarray(outputs, np.uint8)))


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("name", CASES)
def test_wanted_rows_have_the_bits_of_whole_computing(name: str, threads: int) -> None:
    program, weights = CASES[name]
    engine = _engine(program, weights, threads)
    a, b = _ids(1), _ids(2)
    every = range(N_TOKENS)
    whole = [_step(engine, {s: ids}, {s: every}) for s, ids in ((engine.open_sequence(), i) for i in (a, b))]
    for want_a, want_b in (([N_TOKENS - 1], []), ([0, 1, 2, 9, 10, 25], [3, 38, 39]), ([], []), ([4], every)):
        first, second = engine.open_sequence(), engine.open_sequence()
        found = _step(engine, {first: a, second: b}, {first: want_a, second: want_b})
        expected = np.concatenate([whole[0][list(want_a)], whole[1][list(want_b)]])
        assert np.array_equal(found, expected), (want_a, want_b)
        # What the sequences hold is whole, whatever was wanted.
        after = _step(engine, {second: [5]}, {second: [0]})
        fresh = engine.open_sequence()
        assert np.array_equal(after, _step(engine, {fresh: [*b, 5]}, {fresh: [N_TOKENS]}))
        for sequence in (first, second, fresh):
            engine.close_sequence(sequence)


@pytest.mark.parametrize("kv", ["f16", "i16"])
def test_the_last_token_of_a_prompt_of_several_key_chunks(kv: str) -> None:
    """Attention splits the keys of a single row among threads, whatever the step was."""
    program, weights = CASES["shared"]
    ids = _ids(4, 600)
    engine = _engine(program, weights, 3, kv)
    first, second = engine.open_sequence(), engine.open_sequence()
    whole = _step(engine, {first: ids}, {first: range(600)})
    assert np.array_equal(_step(engine, {second: ids}, {second: [599]}), whole[599:])


@pytest.mark.parametrize("wanted", [[], [N_TOKENS - 1], range(N_TOKENS)])
def test_late_layers_multiply_only_the_wanted_rows(wanted: Sequence[int]) -> None:
    program, weights = CASES["shared"]
    engine = _engine(program, weights, 2)
    sequence = engine.open_sequence()
    _step(engine, {sequence: _ids(1)}, {sequence: wanted})
    early = N_OWN * 3 + (N_OWN - 1) * 4
    late = len([op for op in program.ops if op.kind == "linear"]) - early
    assert early + late == N_OWN * 7 + (N_LAYERS - N_OWN) * 5 + 1
    assert engine.multiplied_rows == early * N_TOKENS + late * len(wanted)


@pytest.mark.parametrize("wanted", [[N_TOKENS - 1], [7, 3]])
def test_the_interpreter_stops_where_the_engine_does(wanted: list[int]) -> None:
    program, weights = CASES["shared"]
    rows: dict[str, int] = {}
    interpreter = Interpreter(program, weights, lambda name, number, x: rows.update({name: len(x)}))
    found = interpreter.logits(_ids(1), positions=wanted)
    expected = Interpreter(program, weights).logits(_ids(1))[wanted]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert rows["1.k"] == N_TOKENS
    assert {rows[name] for name in ("1.o", "1.down", "2.q", "4.gate", "head")} == {len(wanted)}
