"""Adapters at run time: logits of the adapted model, and unchanged bits of every other sequence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import edgellm
from edgellm import _native
from edgellm.backends.native import raw_update
from edgellm.cli import main
from edgellm.convert.adapter import Base, base_of_metadata, updates_of
from edgellm.convert.lora import Delta
from edgellm.errors import UnsupportedError
from edgellm.families.registry import build, parts, plan
from edgellm.gguf.types import GGMLType
from edgellm.program import Program, to_text
from edgellm.program.adapter import Adapter, Update, check_adapter, linear_weights
from edgellm.program.interpreter import Interpreter
from edgellm.quant import decode, encode
from tests.contract.test_engine import _planned
from tests.support.references import (
    CHECKPOINTS_ONLY,
    OFFICIAL,
    adapter_folder,
    adapter_reference,
    checkpoint,
    official_gguf,
    reference,
    unpacked,
)

__all__ = ["unpacked"]

Floats = NDArray[np.float32]
WITH_ADAPTER = ("gemma3", "llama", "qwen3")
# Fused, windowed, recurrent, grouped, with experts: all uses of a linear in programs.
CASES = ("deepseek_v2", "gemma3", "gpt2", "lfm2", "llama", "mamba2", "mixtral", "phi3", "qwen2", "qwen3_5")


@pytest.mark.parametrize("backend", ["native", "interpreter"])
@pytest.mark.parametrize("form", ["gguf", "peft"])
@pytest.mark.parametrize("name", WITH_ADAPTER)
def test_an_adapter_gives_the_logits_of_the_adapted_model(
    name: str, form: str, backend: str, tmp_path: Path, unpacked: Path
) -> None:
    base = official_gguf(name, unpacked)
    adapter = adapter_folder(name)
    if form == "gguf":
        adapter = tmp_path / "adapter.gguf"
        assert main(["convert", str(adapter_folder(name)), str(adapter), "--base", str(base)]) == 0
    expected, plain = adapter_reference(name), reference(name)
    with edgellm.load(base, lora=[adapter], backend=backend, threads=2) as model:
        expected.check(model.logits(expected.token_ids.tolist()))
        plain.check(model.logits(plain.token_ids.tolist(), lora={}))
        assert model.memory["adapters"] > 0


def random_adapter(program: Program, rank: int, seed: int, share: float = 1.0) -> Adapter:
    """Updates of about a third of each weight's size, of a share of the weights."""
    rng = np.random.default_rng(seed)
    updates = {}
    for name in sorted(linear_weights(program)):
        n_out, n_in = program.weights[name]
        a = (rng.standard_normal((rank, n_in)) / np.sqrt(n_in)).astype(
            np.float16 if rank == 5 else np.float32
        )
        b = (rng.standard_normal((n_out, rank)) / np.sqrt(rank)).astype(np.float32)
        if rng.random() < share:
            updates[name] = Update(a, b, 0.1)
    adapter = Adapter(updates)
    check_adapter(adapter, program)
    return adapter


def engine(
    program: Program,
    weights: Mapping[str, Floats],
    adapters: list[Adapter],
    *,
    threads: int = 2,
    isa: str = "",
    kinds: Mapping[str, GGMLType] | None = None,
) -> _native.Engine:
    types = {name: (kinds or {}).get(name, GGMLType.F32) for name in program.weights}
    made = _native.Engine(
        to_text(program),
        [(name, int(kind)) for name, kind in types.items()],
        threads=threads,
        context=256,
        cache_tokens=2048,
        batch=128,
        kv_type="f32",
        isa=isa or _native.best_isa(),
    )
    for adapter in adapters:
        made.add_adapter([raw_update(item) for item in adapter.updates.items()])
    made.load([(name, int(kind), encode(kind, weights[name]).reshape(-1)) for name, kind in types.items()])
    return made


def logits(made: _native.Engine, ids: list[int], scales: list[float], chunk: int = 128) -> Floats:
    sequence = made.open_sequence(scales)
    rows = []
    for start in range(0, len(ids), chunk):
        tokens = np.asarray(ids[start : start + chunk], np.int32)
        owners = np.full(len(tokens), sequence, np.int32)
        rows.append(made.step(tokens, owners, np.ones(len(tokens), np.uint8)))
    made.close_sequence(sequence)
    return np.concatenate(rows)


@pytest.mark.parametrize("name", CASES)
def test_every_linear_of_every_kind_of_program_takes_an_adapter(name: str) -> None:
    program, weights = _planned(name)
    adapters = [random_adapter(program, 5, 1), random_adapter(program, 20, 2, share=0.5)]
    ids = reference(name).token_ids.tolist()[:40]
    oracle = Interpreter(program, weights, adapters=adapters)
    made = engine(program, weights, adapters)
    plain = logits(made, ids, [])
    for scales in ([1.0, 0.0], [0.0, -2.0], [0.5, 1.5]):
        found, expected = logits(made, ids, scales), oracle.logits(ids, scales)
        np.testing.assert_allclose(found, expected, atol=2e-3 * float(np.abs(expected).max()))
        assert np.abs(found - plain).max() > 0.01 * np.abs(plain).max()


@pytest.mark.parametrize("isa", _native.usable_isas())
def test_bits_do_not_depend_on_company_chunks_or_threads(isa: str) -> None:
    program, weights = _planned("llama")
    ids = reference("llama").token_ids.tolist()
    adapters = [random_adapter(program, 5, 1), random_adapter(program, 20, 2, share=0.5)]
    settings = [[], [1.0, 0.0], [0.0, 1.0], [0.5, -1.5]]
    without = logits(engine(program, weights, [], isa=isa), ids, [])
    made = engine(program, weights, adapters, isa=isa)
    alone = [logits(made, ids, scales) for scales in settings]
    assert np.array_equal(alone[0], without)
    assert np.array_equal(logits(made, ids, [0.0, 0.0]), without)
    single = engine(program, weights, adapters, threads=1, isa=isa)
    triple = engine(program, weights, adapters, threads=3, isa=isa)
    for scales, expected in zip(settings, alone, strict=True):
        assert np.array_equal(logits(single, ids, scales, 7), expected)
        assert np.array_equal(logits(triple, ids, scales, 1), expected)

    # All settings in the same steps, each sequence at its own pace, with logits of some rows only.
    sequences = [made.open_sequence(scales) for scales in settings]
    done = [0] * len(settings)
    for width in (3, 1, 17, 1, 1, 20, 2):
        paces = [width + i for i in range(len(settings))]
        parts_of = [ids[at : at + n] for at, n in zip(done, paces, strict=True)]
        tokens = np.concatenate(parts_of).astype(np.int32)
        owners = np.repeat(np.asarray(sequences, np.int32), paces)
        outputs = (np.arange(len(tokens)) % 3 != 1).astype(np.uint8)
        rows = made.step(tokens, owners, outputs)
        expected = np.concatenate([row[at : at + n] for row, at, n in zip(alone, done, paces, strict=True)])
        assert np.array_equal(rows, expected[outputs != 0])
        done = [at + n for at, n in zip(done, paces, strict=True)]

    for scales in ([1.0], [1.0, np.inf]):
        with pytest.raises(ValueError, match="scales must be one finite number for each adapter"):
            made.open_sequence(scales)

    # A fork keeps the adapters of its original.
    fork = made.fork_sequence(sequences[3], 32)
    rest = np.asarray(ids[32:40], np.int32)
    rows = made.step(rest, np.full(8, fork, np.int32), np.ones(8, np.uint8))
    assert np.array_equal(rows, alone[3][32:40])


def test_quantized_models_keep_their_bits_too() -> None:
    program, weights = _planned("llama")
    ids = reference("llama").token_ids.tolist()
    kinds = dict.fromkeys(linear_weights(program), GGMLType.Q8_0)
    rounded = {
        name: decode(kind, encode(kind, weights[name]), weights[name].shape) for name, kind in kinds.items()
    }
    adapter = random_adapter(program, 8, 3)
    made = engine(program, weights, [adapter], kinds=kinds)
    assert np.array_equal(logits(made, ids, []), logits(engine(program, weights, [], kinds=kinds), ids, []))
    expected = Interpreter(program, weights | rounded, adapters=[adapter]).logits(ids, [1.0])
    found = logits(made, ids, [1.0], 9)
    assert np.array_equal(found, logits(made, ids, [1.0]))
    # Inputs of quantized weights are rounded to 8 bits.
    assert np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)) < 0.03


@pytest.mark.parametrize("name", CASES)
def test_names_and_row_orders_are_those_of_the_family(name: str) -> None:
    """The change of a checkpoint's matrix equals the change of the family's matrix made from it."""
    config, source = checkpoint(name)
    planned = plan(config, {key: array.shape for key, array in source.items()})
    program, _ = _planned(name)
    base = Base(planned.architecture, parts(config), program)
    rng = np.random.default_rng(4)
    taken, refused = 0, set()
    for key, weight in source.items():
        if weight.ndim != 2 or "embed" in key or "wte" in key or "wpe" in key:
            continue
        turned = name == "gpt2"
        n_out, n_in = weight.shape[::-1] if turned else weight.shape
        a = rng.standard_normal((2, n_in)).astype(np.float32)
        b = rng.standard_normal((n_out, 2)).astype(np.float32)
        delta = Delta(a, b, 0.5, turned)
        try:
            updates = dict(updates_of({key: delta}, base))
            check_adapter(Adapter(updates), program)
        except UnsupportedError:
            refused.add(key)
            continue
        taken += 1
        added = delta.rows(0, len(weight))
        for tensor in planned.tensors:
            if key in tensor.sources:
                made = [tensor.make.apply([w]) for w in (weight + added, weight)]
                update = updates[tensor.name]
                product = update.scale * update.b @ update.a
                np.testing.assert_allclose(product, made[0] - made[1], rtol=1e-4, atol=1e-4)
    assert taken >= 4
    if name in ("mixtral", "deepseek_v2"):
        assert any("experts" in key for key in refused)
    if name in ("gemma3", "gpt2", "llama", "phi3", "qwen2", "qwen3_5"):
        assert not refused


# Config values that families need and do not write into their files.
NEEDS_CHECKPOINT = {"deepseek_v2", "lfm2", "mamba2", "qwen3_5", "qwen3_next"}


@pytest.mark.parametrize("name", [*OFFICIAL, *CHECKPOINTS_ONLY])
def test_a_base_file_says_the_same_as_its_checkpoint_or_nothing(name: str) -> None:
    config, source = checkpoint(name)
    planned = plan(config, {key: array.shape for key, array in source.items()})
    metadata = {"general.architecture": planned.architecture, **planned.metadata}
    program = build(metadata, {tensor.name: tensor.shape for tensor in planned.tensors})
    if name in NEEDS_CHECKPOINT:
        with pytest.raises(UnsupportedError, match="convert ADAPTER OUT"):
            base_of_metadata(metadata, program)
        return
    base = base_of_metadata(metadata, program)
    linears = linear_weights(program)
    for tensor in planned.tensors:
        if tensor.name in linears:
            places = [part.make for part in base.parts if part[:2] == (tensor.name, tensor.sources)]
            assert [type(make) for make in places] == [type(tensor.make)], tensor.name
            if isinstance(tensor.make, tuple):
                assert places == [tensor.make], tensor.name
