"""Native engine: every family's logits, and equal bits for any threads, chunks and batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

import edgellm
from edgellm import _native
from edgellm.engine.kv_types import KV_TYPES
from edgellm.engine.request import Request
from edgellm.families import build, plan
from edgellm.families.checkpoint import CheckpointPlan
from edgellm.gguf.types import GGMLType
from edgellm.program import Program, to_text
from edgellm.program.builder import Builder
from edgellm.program.interpreter import Interpreter
from edgellm.quant import decode
from tests.contract.test_linear import FLOATS, WEIGHTS, random_rows
from tests.support.paths import real_model
from tests.support.references import CHECKPOINTS_ONLY, OFFICIAL, checkpoint, reference
from tests.support.variants import N_ROWS, number, token_ids, variants
from tests.support.variants import weights as variant_weights

Logits = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Weights = dict[str, NDArray[np.float32]]

ISAS = _native.usable_isas()


def _planned(name: str) -> tuple[Program, Weights]:
    """A case's program and its float32 weights, from its checkpoint."""
    config, source = checkpoint(name)
    return _built(plan(config, {key: array.shape for key, array in source.items()}), source)


def _built(planned: CheckpointPlan, source: Weights) -> tuple[Program, Weights]:
    """The program of a planned file, and its weights."""
    weights = {
        tensor.name: np.ascontiguousarray(
            tensor.make.apply([source[key] for key in tensor.sources]), np.float32
        )
        for tensor in planned.tensors
    }
    completed = planned.completed(number(source))
    metadata = {"general.architecture": planned.architecture, **completed.metadata}
    return build(metadata, {key: array.shape for key, array in weights.items()}), weights


def _n_positions(weights: Weights) -> int:
    """Longest context of a model: positions that it has learned, if it learns them."""
    return len(weights["position_embd.weight"]) if "position_embd.weight" in weights else 4096


def _engine(
    program: Program, weights: Weights, *, threads: int = 2, isa: str = "", kv: str = "f32"
) -> _native.Engine:
    engine = _native.Engine(
        to_text(program),
        [(name, int(GGMLType.F32)) for name in program.weights],
        threads=threads,
        context=min(512, _n_positions(weights)),
        cache_tokens=2048,
        batch=128,
        kv_type=kv,
        isa=isa or _native.best_isa(),
    )
    engine.load(
        [(name, int(GGMLType.F32), weights[name].reshape(-1).view(np.uint8)) for name in program.weights]
    )
    return engine


def _logits(engine: _native.Engine, ids: Sequence[int], chunk: int) -> Logits:
    """Logits of every position of a sequence of its own, read in chunks."""
    sequence = engine.open_sequence()
    rows = []
    for start in range(0, len(ids), chunk):
        tokens = np.asarray(ids[start : start + chunk], np.int32)
        every = np.ones(len(tokens), np.uint8)
        rows.append(engine.step(tokens, np.full(len(tokens), sequence, np.int32), every))
    engine.close_sequence(sequence)
    return np.concatenate(rows)


@pytest.mark.parametrize("name", [*OFFICIAL, *CHECKPOINTS_ONLY])
def test_logits_match_the_reference(name: str) -> None:
    expected = reference(name)
    program, weights = _planned(name)
    expected.check(_logits(_engine(program, weights), expected.token_ids.tolist(), 128))


@pytest.mark.parametrize("name", [name for name in variants() if name.endswith("-small")])
def test_variants_of_families_without_a_reference(name: str) -> None:
    variant = variants()[name]
    source = dict(variant_weights(variant.shapes, variant.seed))
    program, weights = _built(plan(variant.config, variant.shapes), source)
    logits = _logits(_engine(program, weights), token_ids(variant.seed), 7)[-N_ROWS:]
    np.testing.assert_allclose(logits, variant.logits, atol=1e-3)
    assert (logits.argmax(axis=1) == variant.logits.argmax(axis=1)).all()


@pytest.mark.parametrize("isa", ISAS)
def test_encoders_with_windows_and_segments(isa: str) -> None:
    """Texts around the window's size and beyond a task's queries, alone and together in a step."""
    b = Builder("encoder", n_vocab=11, width=32, n_layers=1, n_ctx_train=256, tensors=None)
    x = b.embed("embd", 11, 32)
    x = b.add(x, b.embed("types", 2, 32, source="segment", separator=7))
    q, k, v = (b.linear(x, name, width) for name, width in (("q", 32), ("k", 16), ("v", 16)))
    y = b.attention(q, k, v, n_heads=4, scale=0.35, window=9, causal=False)
    program = b.build(hidden=b.linear(y, "out", 3), logits=None, pooling="rank")
    rng = np.random.default_rng(5)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in program.weights.items()}
    texts = [rng.integers(0, 11, n).tolist() for n in (1, 2, 8, 9, 10, 17, 18, 19, 41)]
    interpreter, engine = Interpreter(program, weights), _engine(program, weights, isa=isa)
    expected = [interpreter.hidden(ids) for ids in texts]
    for ids, rows in zip(texts, expected, strict=True):
        found = np.asarray(engine.hidden(np.asarray(ids, np.int32)))
        np.testing.assert_allclose(found, rows, rtol=1e-3, atol=1e-3)
    together = np.asarray([token for ids in texts[:-1] for token in ids], np.int32)
    found = np.asarray(engine.hidden(together, lengths=[len(ids) for ids in texts[:-1]]))
    np.testing.assert_allclose(found, np.concatenate(expected[:-1]), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="lengths"):
        engine.hidden(together, lengths=[3, 0])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", ["llama", "gemma3", "mixtral", "mamba2"])
def test_every_instruction_set_matches_the_reference(name: str, isa: str) -> None:
    expected = reference(name)
    program, weights = _planned(name)
    expected.check(_logits(_engine(program, weights, isa=isa), expected.token_ids.tolist(), 128))


@pytest.mark.parametrize("kv", KV_TYPES)
@pytest.mark.parametrize("name", ["llama", "gemma2", "gemma3", "qwen3_moe", "lfm2", "mamba2", "stablelm"])
def test_bits_do_not_depend_on_threads_chunks_or_company(name: str, kv: str) -> None:
    ids = reference(name).token_ids.tolist()
    program, weights = _planned(name)
    whole = _logits(_engine(program, weights, threads=1, kv=kv), ids, 128)
    engine = _engine(program, weights, threads=2, kv=kv)
    for chunk in (128, 7, 1):
        assert np.array_equal(_logits(engine, ids, chunk), whole), f"chunks of {chunk}"
    assert np.array_equal(_logits(_engine(program, weights, threads=3, kv=kv), ids, 5), whole)

    # The same tokens again, in steps shared with three other sequences at other positions.
    others = [np.roll(ids, shift).tolist() for shift in (3, 17, 40)]
    sequences = [engine.open_sequence() for _ in range(4)]
    rows = []
    for start in range(0, len(ids), 9):
        parts = [other[start : start + 4 + i] for i, other in enumerate(others)]
        parts.insert(2, ids[start : start + 9])
        tokens = np.concatenate([np.asarray(part, np.int32) for part in parts])
        owners = np.repeat(np.asarray(sequences, np.int32), [len(part) for part in parts])
        rows.append(engine.step(tokens, owners, (owners == sequences[2]).astype(np.uint8)))
    assert np.array_equal(np.concatenate(rows), whole)


@pytest.mark.parametrize("name", ["llama", "gemma3", "lfm2"])
def test_forks_and_saved_sequences_go_on_with_the_same_bits(name: str) -> None:
    ids = reference(name).token_ids.tolist()
    program, weights = _planned(name)
    engine = _engine(program, weights)
    whole = _logits(engine, ids, 128)
    sequence = engine.open_sequence()

    def append(to: int, tokens: Sequence[int]) -> Logits:
        n = len(tokens)
        return np.asarray(
            engine.step(np.asarray(tokens, np.int32), np.full(n, to, np.int32), np.ones(n, np.uint8))
        )

    append(sequence, ids[:45])
    fork = engine.fork_sequence(sequence, 45)
    saved = engine.save_sequence(sequence)
    assert np.array_equal(append(sequence, ids[45:]), whole[45:])
    assert np.array_equal(append(fork, ids[45:]), whole[45:])
    restored = engine.restore_sequence(saved)
    assert np.array_equal(append(restored, ids[45:]), whole[45:])
    if not program.states:
        assert engine.truncate_sequence(fork, 33)
        assert np.array_equal(append(fork, ids[33:]), whole[33:])
        early = engine.fork_sequence(sequence, 20)
        assert np.array_equal(append(early, ids[20:]), whole[20:])
    assert engine.restore_sequence(saved[:-1]) == -1
    free = engine.free_tokens
    engine.close_sequence(restored)
    assert engine.free_tokens >= free


@pytest.mark.parametrize("kv", KV_TYPES)
def test_saved_blocks_go_on_with_the_same_bits(kv: str) -> None:
    ids = np.resize(reference("llama").token_ids, 110).tolist()
    program, weights = _planned("llama")
    engine = _engine(program, weights, kv=kv)
    whole = _logits(engine, ids, 128)
    sequence = engine.open_sequence()

    def append(to: int, tokens: Sequence[int]) -> Logits:
        n = len(tokens)
        return np.asarray(
            engine.step(np.asarray(tokens, np.int32), np.full(n, to, np.int32), np.ones(n, np.uint8))
        )

    append(sequence, ids)
    blocks = [engine.save_blocks(sequence, 0, 2), engine.save_blocks(sequence, 2, 1)]
    for n_blocks in (4, 10**9):
        assert engine.save_blocks(sequence, 0, n_blocks) == b""  # the last one is not full
    assert engine.save_blocks(sequence, 4, 0) == b""

    other = _engine(program, weights, kv=kv)
    restored = other.open_sequence()
    free = other.free_tokens
    for hostile in (blocks[0][:-1], b"x", blocks[0] * 1000):
        assert not other.append_blocks(restored, hostile)
    assert (other.sequence_length(restored), other.free_tokens) == (0, free)
    for saved in blocks:
        assert other.append_blocks(restored, saved)
    assert other.sequence_length(restored) == 96
    last = np.asarray(
        other.step(np.asarray(ids[96:], np.int32), np.full(14, restored, np.int32), np.ones(14, np.uint8))
    )
    assert np.array_equal(last, whole[96:])
    assert not other.append_blocks(restored, blocks[0])  # its end is within a block
    assert other.free_tokens == free - 128


@pytest.mark.parametrize("name", ["gemma3", "lfm2", "mamba2"])
def test_windows_and_states_are_not_blocks(name: str) -> None:
    program, weights = _planned(name)
    engine = _engine(program, weights)
    sequence = engine.open_sequence()
    ids = reference(name).token_ids[:40].astype(np.int32)
    engine.step(ids, np.full(len(ids), sequence, np.int32), np.zeros(len(ids), np.uint8))
    assert engine.save_blocks(sequence, 0, 1) == b""
    assert not engine.append_blocks(sequence, b"")


@pytest.mark.parametrize("name", ["llama", "gemma3", "lfm2", "mamba2"])
def test_forged_sequences_are_refused_or_harmless(name: str) -> None:
    """Any bytes give no sequence, or one that can be continued; never a crash."""
    program, weights = _planned(name)
    engine = _engine(program, weights)
    sequence = engine.open_sequence()
    ids = reference(name).token_ids[:45].astype(np.int32)
    engine.step(ids, np.full(len(ids), sequence, np.int32), np.zeros(len(ids), np.uint8))
    saved = engine.save_sequence(sequence)
    free = engine.free_tokens
    rng = np.random.default_rng(7)
    numbers = [0, 1, 31, 32, 44, 64, 96, 2**31, 2**63, 2**64 - 1, 2**64 - 32]
    for _ in range(300):
        forged = bytearray(saved)
        for _ in range(int(rng.integers(1, 4))):
            place = int(rng.integers(0, len(forged) // 8)) * 8
            at = int(rng.choice([0, 8, place]))
            forged[at : at + 8] = int(rng.choice(np.asarray(numbers, object))).to_bytes(8, "little")
        restored = engine.restore_sequence(bytes(forged[: int(rng.choice([len(saved), len(saved) - 8]))]))
        if restored >= 0:
            one = np.asarray([1], np.int32)
            if engine.sequence_length(restored) < 127:
                engine.step(one, np.full(1, restored, np.int32), np.ones(1, np.uint8))
            engine.close_sequence(restored)
        assert engine.free_tokens == free


def test_logits_that_are_held_stay_as_they_are() -> None:
    """A step reuses the memory of logits only when nothing refers to them."""

    def step(engine: _native.Engine, token: int) -> Logits:
        tokens, sequences = np.asarray([token], np.int32), np.zeros(1, np.int32)
        return np.asarray(engine.step(tokens, sequences, np.ones(1, np.uint8)))

    engine = _engine(*_planned("llama"))
    engine.open_sequence()
    first = step(engine, 1)
    view, expected, place = first[0], first.copy(), first.ctypes.data
    del first
    assert step(engine, 2).ctypes.data != place
    np.testing.assert_array_equal(view, expected[0])
    del view
    last = step(engine, 3)
    assert last.ctypes.data == place
    expected = last.copy()
    del engine
    np.testing.assert_array_equal(last, expected)


def test_steps_refuse_what_does_not_fit() -> None:
    program, weights = _planned("llama")
    engine = _engine(program, weights)
    sequence = engine.open_sequence()
    one = np.ones(1, np.uint8)

    def step(token: int, owner: int) -> None:
        engine.step(np.asarray([token], np.int32), np.asarray([owner], np.int32), one)

    with pytest.raises(ValueError, match="token id"):
        step(program.n_vocab, sequence)
    with pytest.raises(ValueError, match="not open"):
        step(1, sequence + 1)
    with pytest.raises(ValueError, match="batch size"):
        engine.step(np.zeros(129, np.int32), np.full(129, sequence, np.int32), np.zeros(129, np.uint8))
    for _ in range(4):
        engine.step(np.zeros(128, np.int32), np.full(128, sequence, np.int32), np.zeros(128, np.uint8))
    with pytest.raises(_native.ContextFull):
        step(1, sequence)
    for _ in range(3):
        full = engine.open_sequence()
        for _ in range(4):
            engine.step(np.zeros(128, np.int32), np.full(128, full, np.int32), np.zeros(128, np.uint8))
    with pytest.raises(_native.CacheFull):
        step(1, engine.open_sequence())
    assert engine.sequence_length(sequence) == 512


def test_weights_that_are_not_finite_are_named() -> None:
    program, weights = _planned("llama")
    for name in ("blk.0.attn_q.weight", "blk.1.ffn_norm.weight"):
        damaged = dict(weights)
        damaged[name] = weights[name].copy()
        damaged[name].flat[5] = np.nan
        with pytest.raises(_native.ModelError, match=name.replace(".", r"\.")):
            _engine(program, damaged)


def test_program_text_with_one_wrong_line_is_refused() -> None:
    program, _ = _planned("llama")
    text = to_text(program)
    types = [(name, int(GGMLType.F32)) for name in program.weights]
    for before, after in (
        ("kind=rms", "kind=median"),
        ("-> 64", "-> 65"),
        ("= linear x", "= linear y"),
        ("n_kv_heads=2", "n_kv_heads=0"),
        ("weight:blk.0.attn_q.weight", "weight:blk.0.attn_k.weight"),
        ("cache=0", "cache=9"),
        ("eps=", "epsilon="),
        ("output hidden", "outputs hidden"),
        ("rope x", "spin x"),
    ):
        assert before in text, before
        with pytest.raises(_native.ModelError):
            _native.Engine(
                text.replace(before, after, 1),
                types,
                threads=1,
                context=64,
                cache_tokens=64,
                batch=8,
                kv_type="f16",
                isa="scalar",
            )


@pytest.mark.parametrize("context", [257, 512])
def test_a_context_beyond_the_learned_positions_is_refused(context: int) -> None:
    program, weights = _planned("gpt2")
    assert _n_positions(weights) == 256
    types = [(name, int(GGMLType.F32)) for name in program.weights]
    text = to_text(program)

    def made(n_ctx: int) -> _native.Engine:
        return _native.Engine(
            text, types, threads=1, context=n_ctx, cache_tokens=512, batch=8, kv_type="f32", isa="scalar"
        )

    made(256)
    with pytest.raises(_native.ModelError, match=rf"256 rows, expected one for each position .* {context}"):
        made(context)


def _small_model(n_vocab: int, width: int) -> tuple[Program, dict[str, tuple[int, ...]]]:
    """A model of one layer without attention whose embedding is its head, and the shapes of its weights."""
    shapes = {
        "token_embd.weight": (n_vocab, width),
        "norm.weight": (width,),
        "up.weight": (width, width),
        "down.weight": (width, width),
    }
    builder = Builder("test", n_vocab=n_vocab, width=width, n_layers=1, n_ctx_train=64, tensors=shapes)
    x = builder.embed("token_embd.weight", n_vocab, width)
    h = builder.norm(x, kind="rms", eps=1e-5, weight="norm.weight")
    h = builder.activation(builder.linear(h, "up.weight", width), "relu")
    x = builder.add(x, builder.linear(h, "down.weight", width))
    hidden = builder.norm(x, kind="rms", eps=1e-5, weight="norm.weight")
    logits = builder.linear(hidden, "token_embd.weight", n_vocab)
    return builder.build(hidden=hidden, logits=logits), shapes


@pytest.mark.parametrize("kind", WEIGHTS, ids=lambda kind: kind.name)
def test_every_format_can_be_the_weights_of_a_model(kind: GGMLType) -> None:
    n_vocab, width = 80, 256
    program, shapes = _small_model(n_vocab, width)
    raw = {
        name: random_rows(kind, *shape, seed=i)
        for i, (name, shape) in enumerate(shapes.items())
        if len(shape) == 2
    }
    weights = {name: decode(kind, data, shapes[name]) for name, data in raw.items()}
    weights["norm.weight"] = np.linspace(0.5, 1.5, width, dtype=np.float32)
    types = {name: int(kind) for name in raw} | {"norm.weight": int(GGMLType.F32)}
    engine = _native.Engine(
        to_text(program),
        list(types.items()),
        threads=2,
        context=64,
        cache_tokens=64,
        batch=64,
        kv_type="f16",
        isa=_native.best_isa(),
    )
    data = raw | {"norm.weight": weights["norm.weight"].view(np.uint8)}
    engine.load([(name, types[name], data[name]) for name in types])

    ids = list(range(0, n_vocab, 3))
    expected = Interpreter(program, weights).logits(ids)
    found = _logits(engine, ids, 64)
    # Inputs of quantized weights are rounded to 8 bits: about 0.4 % of the largest of each 32.
    error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
    assert error < (1e-5 if kind in FLOATS else 0.015), error


def _engine_with_large_head(
    isa: str, threads: int, damage: Callable[[Bytes], None] | None = None
) -> _native.Engine:
    """An engine whose 8-bit head of 5000 tokens is nearly all of its weights."""
    program, shapes = _small_model(5000, 256)
    raw = {
        name: random_rows(GGMLType.Q8_0, *shape, seed=i)
        for i, (name, shape) in enumerate(shapes.items())
        if len(shape) == 2
    }
    if damage is not None:
        damage(raw["token_embd.weight"].reshape(5000, -1))
    raw["norm.weight"] = np.ones(256, np.float32).view(np.uint8)
    types = {name: int(GGMLType.F32 if name == "norm.weight" else GGMLType.Q8_0) for name in raw}
    engine = _native.Engine(
        to_text(program),
        list(types.items()),
        threads=threads,
        context=64,
        cache_tokens=512,
        batch=64,
        kv_type="f16",
        isa=isa,
    )
    engine.load([(name, types[name], data) for name, data in raw.items()])
    return engine


def _step(engine: _native.Engine, tokens: Sequence[int], n_largest: int) -> Logits:
    """The logits after each of these tokens, each in a sequence of its own."""
    n = len(tokens)
    sequences = np.asarray([engine.open_sequence() for _ in tokens], np.int32)
    rows = engine.step(np.asarray(tokens, np.int32), sequences, np.ones(n, np.uint8), n_largest)
    for sequence in sequences:
        engine.close_sequence(int(sequence))
    return np.array(rows)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 3])
def test_the_largest_logits_are_those_of_all(isa: str, threads: int) -> None:
    """The largest logits, found without reading the whole head, have equal bits; others lie below them."""
    engine = _engine_with_large_head(isa, threads)
    rng = np.random.default_rng(3)
    for n_largest, n_rows in ((1, 1), (1, 2), (1, 12), (5, 1), (5, 7), (40, 1), (64, 1), (65, 1)):
        tokens = rng.integers(0, 5000, n_rows).tolist()
        every, found = _step(engine, tokens, 0), _step(engine, tokens, n_largest)
        for all_of, row in zip(every, found, strict=True):
            best = np.argsort(-all_of, kind="stable")[:n_largest]
            np.testing.assert_array_equal(np.argsort(-row, kind="stable")[:n_largest], best)
            np.testing.assert_array_equal(row[best], all_of[best])
            assert np.all(row >= all_of)
            assert np.all(np.isfinite(row))
    assert engine.unread_bytes > 0


def test_bounds_that_leave_everything_open_are_not_asked_again() -> None:
    def all_alike(head: Bytes) -> None:
        head[:] = head[:1]

    engine = _engine_with_large_head(_native.best_isa(), 2, all_alike)
    for _ in range(3):
        np.testing.assert_array_equal(_step(engine, [7], 1), _step(engine, [7], 0))
    assert engine.unread_bytes == 0


def test_a_token_far_above_all_others_is_found() -> None:
    def huge(head: Bytes) -> None:
        head.reshape(5000, 8, 34)[7, :, :2] = np.asarray([65504.0], np.float16).view(np.uint8)

    engine = _engine_with_large_head(_native.best_isa(), 2, huge)
    every, found = _step(engine, [7], 0)[0], _step(engine, [7], 1)[0]
    assert np.argmax(every) == np.argmax(found)
    assert every.max() == found.max()


def test_answers_of_a_real_model_do_not_depend_on_how_logits_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Gemma-3-270M reads mostly its head: greedy and sampled answers, with and without reading all of it."""
    with edgellm.load(real_model("gemma-3-270m-q4_k_m.gguf")) as model:

        def answers() -> list[str]:
            options = [edgellm.GenerateOptions(temperature=t, seed=5, max_tokens=24) for t in (0.0, 0.8, 1.5)]
            return ["".join(model.generate("In 1969, humans", one)) for one in options]

        found, n_unread = answers(), model.backend.unread_bytes
        assert n_unread > 0
        monkeypatch.setattr(Request, "n_largest", 0)
        assert answers() == found
        assert model.backend.unread_bytes == n_unread
