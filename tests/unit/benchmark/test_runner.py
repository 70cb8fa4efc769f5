from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgellm.benchmark.runner import Runner, Trial, cache_tokens
from edgellm.engine.load_options import LoadOptions
from edgellm.errors import UsageError
from edgellm.gguf.reader import GGUFFile
from tests.support.references import official_gguf, unpacked

__all__ = ["unpacked"]

TESTS = (Trial(12, 0), Trial(0, 4), Trial(8, 4), Trial(0, 3, n_depth=9), Trial(0, 3, n_parallel=3))


@pytest.fixture(scope="module")
def model(unpacked: Path) -> Path:
    return official_gguf("llama", unpacked)


def options(context: int = 64, parallel_tokens: int = 1024) -> LoadOptions:
    return LoadOptions(
        backend="interpreter", context=context, cache_tokens=parallel_tokens, batch=7, threads=1
    )


@pytest.fixture(scope="module")
def runner(model: Path) -> Iterator[Runner]:
    made = Runner(model, options(), TESTS)
    yield made
    made.close()


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.name)
def test_every_kind_of_test_is_timed(runner: Runner, test: Trial) -> None:
    result = runner.run(test, 2)
    assert len(result.seconds) == 2
    assert min(result.seconds) > 0
    assert bool(result.tokens_hash) == (test.n_gen > 0)


def test_greedy_tokens_hash_alike_in_every_run(runner: Runner) -> None:
    first = runner.run(Trial(8, 4), 1, warmup=False)
    assert first.tokens_hash == runner.run(Trial(8, 4), 1).tokens_hash
    assert first.tokens_hash != runner.run(Trial(7, 4), 1).tokens_hash


def test_sequences_are_closed_again(runner: Runner) -> None:
    before = runner.backend.free_blocks
    runner.run(Trial(0, 3, n_parallel=3), 1)
    assert runner.backend.free_blocks == before


@pytest.mark.parametrize("test", [Trial(0, 30), Trial(0, 30, n_depth=20), Trial(0, 30, n_parallel=3)])
@pytest.mark.parametrize("with_model", [False, True])
def test_speculative_decoding_changes_no_token(model: Path, test: Trial, with_model: bool) -> None:
    native = replace(options(), backend="native", batch=32)
    plain = Runner(model, native, [test])
    drafting = Runner(model, replace(native, draft_max=5, draft=model if with_model else None), [test])
    try:
        free = drafting.backend.free_blocks
        expected, found = plain.run(test, 2), drafting.run(test, 2)
        assert found.tokens_hash == expected.tokens_hash
        assert len(found.seconds) == 2
        assert expected.n_drafted == 0
        assert 0 <= found.n_accepted <= found.n_drafted
        assert drafting.backend.free_blocks == free
    finally:
        plain.close()
        drafting.close()


def test_what_cannot_be_drafted_is_refused(model: Path, unpacked: Path) -> None:
    native = replace(options(), backend="native", draft_max=5)
    with pytest.raises(UsageError, match="only answers alone"):
        Runner(model, native, [Trial(8, 4)])
    with pytest.raises(UsageError, match="cannot take tokens back"):
        Runner(official_gguf("mamba2", unpacked), native, [Trial(0, 4)])


def test_names_are_those_of_llama_bench() -> None:
    names = [test.name for test in (*TESTS, Trial(5, 6, 7, 8))]
    assert names == ["pp12", "tg4", "pp8+tg4", "tg3 @ d9", "tg3 x 3", "pp5+tg6 x 8 @ d7"]


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (Trial(60, 5), "needs 65 tokens and the context has 64"),
        (Trial(0, 60, n_depth=5), "needs 65 tokens"),
        (Trial(1, 1, n_parallel=65), "65 sequences at once exceed the context"),
    ],
)
def test_what_does_not_fit_is_refused(model: Path, test: Trial, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Runner(model, options(), [test])


def test_the_cache_holds_every_sequence() -> None:
    assert cache_tokens([Trial(10, 5), Trial(0, 4, n_parallel=8)]) >= 8 * 5


def test_work_counts_every_matrix_once(runner: Runner, model: Path) -> None:
    with GGUFFile.open(model) as file:
        matrices = {n: t for n, t in file.tensors.items() if len(t.shape) == 2 and n != "token_embd.weight"}
        head = file.tensors.get("output.weight", file.tensors["token_embd.weight"])
    work = runner.work
    body_macs = sum(t.shape[0] * t.shape[1] for n, t in matrices.items() if n != "output.weight")
    assert work.body_macs == body_macs
    assert work.body_bytes == 4 * body_macs
    assert work.head_macs == head.shape[0] * head.shape[1]
    last = f"blk.{runner.plan.program.n_layers - 1}."
    late = ("attn_output", "ffn_gate", "ffn_up", "ffn_down")
    late_macs = sum(
        t.shape[0] * t.shape[1] for n, t in matrices.items() if n.removeprefix(last).split(".")[0] in late
    )
    assert work.prompt_macs(5) == 5 * (body_macs - late_macs) + late_macs + work.head_macs
    assert work.token_macs() == body_macs + work.head_macs


def test_work_counts_the_cache_of_every_sequence(runner: Runner) -> None:
    work, program = runner.work, runner.plan.program
    per_token = sum(4 * cache.n_kv_heads * (cache.key_dim + cache.value_dim) for cache in program.caches)
    weights = work.body_bytes + work.head_bytes
    assert work.step_bytes([10]) == weights + 10 * per_token
    assert work.step_bytes([10, 20]) == weights + 30 * per_token


def test_the_last_layer_attends_for_the_last_token_alone(runner: Runner) -> None:
    work, program = runner.work, runner.plan.program
    assert {window for _, _, window in work.layers} == {0}
    macs = {macs for _, macs, _ in work.layers}.pop()
    early = (program.n_layers - 1) * (11 + 12 + 13)
    assert work.attention_macs(3, 10) == macs * (early + 13)


def test_windows_bound_the_cache_that_is_read(unpacked: Path) -> None:
    runner = Runner(official_gguf("gemma2", unpacked), options(), [Trial(0, 1)])
    try:
        windows = {window for _, _, window in runner.work.layers}
        assert 0 in windows
        window = max(windows)
        assert window > 0
        grown = runner.work.step_bytes([window + 10]) - runner.work.step_bytes([window])
        unlimited = sum(size for size, _, w in runner.work.layers if w == 0)
        assert grown == 10 * unlimited
    finally:
        runner.close()


def test_only_the_experts_that_are_used_count(unpacked: Path) -> None:
    runner = Runner(official_gguf("mixtral", unpacked), options(), [Trial(0, 1)])
    try:
        program = runner.plan.program
        macs = 0.0
        for op in program.ops:
            if op.kind == "moe":
                n_experts, width, n_ff = program.weights[op.weights["down"]]
                assert int(op.attrs["n_used"]) < n_experts
                macs += 3 * int(op.attrs["n_used"]) * width * n_ff
            elif op.kind == "linear":
                rows, cols = program.weights[op.weights["weight"]]
                macs += rows * cols
        assert runner.work.token_macs() == macs > 0
    finally:
        runner.close()
