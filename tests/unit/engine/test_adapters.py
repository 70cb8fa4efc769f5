"""Adapter files: their names, their choice, and the errors of those that are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgellm
from edgellm.cli import main
from edgellm.engine.adapters import AdapterFile, AdapterInfo, choose_scales, name_adapters, parse_adapter
from edgellm.engine.load_options import LoadOptions
from edgellm.errors import EdgeLLMError, MemoryLimitError, ModelError, UnsupportedError, UsageError
from edgellm.gguf.types import GGMLType
from tests.support.gguf_builder import GGUFBuilder
from tests.support.tiny_model import WIDTH, write_tiny_model

pytest.importorskip("edgellm._native", reason="needs the built extension module")

Halves = dict[str, tuple[int, ...]]
GOOD: Halves = {"blk.0.attn_q.weight.lora_a": (2, WIDTH), "blk.0.attn_q.weight.lora_b": (WIDTH, 2)}
METADATA: dict[str, object] = {
    "general.type": "adapter",
    "general.architecture": "llama",
    "adapter.type": "lora",
    "adapter.lora.alpha": 4.0,
}


def write_adapter(
    path: Path,
    shapes: Halves = GOOD,
    *,
    seed: int = 1,
    kind: GGMLType = GGMLType.F32,
    value: float | None = None,
    **changes: object,
) -> Path:
    """A GGUF adapter; a change to None leaves a key out, `value` replaces one of each tensor's."""
    builder = GGUFBuilder()
    for key, found in (METADATA | changes).items():
        if found is not None:
            builder.kv(key, found)
    rng = np.random.default_rng(seed)
    for name, shape in shapes.items():
        values = rng.standard_normal(shape)
        if value is not None:
            values.flat[-1] = value
        builder.tensor(name, kind, shape, values.astype("<f2" if kind == GGMLType.F16 else "<f4"))
    path.write_bytes(builder.build())
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "tiny.gguf")


def test_file_and_scale_are_told_apart(tmp_path: Path) -> None:
    odd = tmp_path / "a=2"
    odd.write_bytes(b"")
    assert parse_adapter("x.gguf") == AdapterFile(Path("x.gguf"), 1.0)
    assert parse_adapter("x.gguf=-0.5") == AdapterFile(Path("x.gguf"), -0.5)
    assert parse_adapter("a=b.gguf=2") == AdapterFile(Path("a=b.gguf"), 2.0)
    assert parse_adapter(str(odd)) == AdapterFile(odd, 1.0)
    assert parse_adapter((odd, 3)) == AdapterFile(odd, 3.0)
    for bad in ("x.gguf=much", "x.gguf=nan", "x.gguf=inf", (odd, math.inf), (odd, True)):
        with pytest.raises(UsageError, match="lora: "):
            parse_adapter(bad)


def test_names_are_those_of_the_files_made_unique(tmp_path: Path) -> None:
    folder = tmp_path / "pirate"
    files = [AdapterFile(Path("a/pirate.gguf")), AdapterFile(folder), AdapterFile(Path("v1.2.gguf"), 0.5)]
    assert [info.name for info in name_adapters(files)] == ["pirate", "pirate-2", "v1.2"]


def test_a_choice_names_adapters_by_name_or_number() -> None:
    infos = [AdapterInfo("a", Path("a"), 1.0), AdapterInfo("b", Path("b"), 0.0)]
    assert choose_scales(infos, None) == (1.0, 0.0)
    assert choose_scales(infos, {}) == ()
    assert choose_scales(infos, {"b": 2, 0: 0.5}) == (0.5, 2.0)
    assert choose_scales(infos, {"a": 0.0}) == ()
    unknown: list[Any] = ["c", 2, -1, True]
    for key in unknown:
        with pytest.raises(UsageError, match=r"the loaded ones are: 0 \(a\), 1 \(b\)"):
            choose_scales(infos, {key: 1.0})
    for scale in (math.nan, math.inf, -101.0, True):
        with pytest.raises(UsageError, match="it must be a number from -100 to 100"):
            choose_scales(infos, {"a": scale})
    with pytest.raises(UsageError, match="the loaded ones are: none"):
        choose_scales([], {"a": 1.0})


def test_answers_choose_among_the_loaded_adapters(model: Path, tmp_path: Path) -> None:
    one = write_adapter(tmp_path / "one.gguf")
    two = write_adapter(tmp_path / "two.gguf", seed=2, kind=GGMLType.F16)
    ids = list(range(40))
    with edgellm.load(model) as plain, edgellm.load(model, lora=[one, (two, 0.0)]) as both:
        assert [info.name for info in both.adapters] == ["one", "two"]
        base = plain.logits(ids)
        assert np.array_equal(both.logits(ids, lora={}), base)
        found = {name: both.logits(ids, lora={name: 1.0}) for name in ("one", "two")}
        assert np.array_equal(both.logits(ids), found["one"])
        assert not np.array_equal(found["one"], base)
        assert not np.array_equal(found["two"], found["one"])
        np.testing.assert_allclose(both.logits(ids, lora={"one": 1e-6}), base, atol=1e-3)

        def answer(choice: dict[str | int, float] | None) -> list[int]:
            options = edgellm.GenerateOptions(temperature=0, max_tokens=12, ignore_eos=True, lora=choice)
            generation = both.generate(ids, options)
            list(generation)
            return generation.ids

        # The prefix cache holds the same prompt under other adapters by now.
        choices: list[dict[str | int, float] | None] = [None, {"one": 1.0}, {"two": 1.0}, {}]
        first = [answer(choice) for choice in choices]
        assert first == [answer(choice) for choice in choices]
        assert first[0] == first[1]
        assert first[1] != first[2]
        with pytest.raises(UsageError, match="lora names the adapter 'three'"):
            answer({"three": 1.0})
        perplexities = {both.perplexity(ids), both.perplexity(ids, lora={})}
        assert len(perplexities) == 2
        assert both.perplexity(ids, lora={}) == plain.perplexity(ids)


def _with(**changes: object) -> Callable[[Path], Path]:
    return lambda path: write_adapter(path, **changes)  # type: ignore[arg-type]


def _shapes(shapes: Halves) -> Callable[[Path], Path]:
    return lambda path: write_adapter(path, shapes)


BAD: dict[str, tuple[Callable[[Path], Path], type[EdgeLLMError], str]] = {
    "a model": (write_tiny_model, ModelError, "'general.type' is 'missing', expected 'adapter'"),
    "another kind": (
        _with(**{"adapter.type": "ia3"}),
        ModelError,
        "'adapter.type' is 'ia3', expected 'lora'",
    ),
    "another architecture": (
        _with(**{"general.architecture": "qwen3"}),
        ModelError,
        "'general.architecture' is 'qwen3', expected 'llama'",
    ),
    "an activated one": (
        _with(**{"adapter.alora.invocation_tokens": [1, 2]}),
        UnsupportedError,
        "activated LoRA",
    ),
    "no alpha": (_with(**{"adapter.lora.alpha": None}), EdgeLLMError, "'adapter.lora.alpha' is 'None'"),
    "endless alpha": (
        _with(**{"adapter.lora.alpha": math.inf}),
        EdgeLLMError,
        "'adapter.lora.alpha' is 'inf'",
    ),
    "no tensors": (_shapes({}), ModelError, "no tensors"),
    "half a pair": (
        _shapes({"blk.0.attn_q.weight.lora_a": (2, WIDTH)}),
        ModelError,
        "only lora_a, expected lora_a and lora_b",
    ),
    "another tensor": (
        _shapes(GOOD | {"blk.0.attn_norm.weight": (WIDTH,)}),
        UnsupportedError,
        "'blk.0.attn_norm.weight' is no matrix NAME.lora_a",
    ),
    "two ranks": (
        _shapes({"blk.0.attn_q.weight.lora_a": (2, WIDTH), "blk.0.attn_q.weight.lora_b": (WIDTH, 3)}),
        ModelError,
        "do not belong together, expected one rank",
    ),
    "another width": (
        _shapes({"blk.0.attn_q.weight.lora_a": (2, 16), "blk.0.attn_q.weight.lora_b": (WIDTH, 2)}),
        ModelError,
        r"of shape \(32, 16\), and the model's has \(32, 32\)",
    ),
    "an unknown weight": (
        _shapes({"blk.9.attn_q.weight.lora_a": (2, WIDTH), "blk.9.attn_q.weight.lora_b": (WIDTH, 2)}),
        ModelError,
        "'blk.9.attn_q.weight', which this llama model does not have",
    ),
    "the embedding": (
        _shapes({"token_embd.weight.lora_a": (2, WIDTH), "token_embd.weight.lora_b": (258, 2)}),
        UnsupportedError,
        "'token_embd.weight', which is not the matrix of a linear layer alone",
    ),
    "not finite": (_with(value=math.nan), ModelError, "not finite"),
}


@pytest.mark.parametrize("backend", ["native", "interpreter"])
@pytest.mark.parametrize("fault", list(BAD))
def test_a_bad_adapter_is_refused_in_a_sentence(
    fault: str, backend: str, model: Path, tmp_path: Path
) -> None:
    write, error, message = BAD[fault]
    path = write(tmp_path / "bad.gguf")
    with pytest.raises(error, match=message) as caught:
        edgellm.load(model, lora=[path], backend=backend)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_the_command_line_takes_adapters(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    good, bad = write_adapter(tmp_path / "good.gguf"), write_adapter(tmp_path / "bad.gguf", value=math.inf)

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(
            ["run", "-m", str(model), "--raw", "-n", "8", "--temp", "0", "-p", "abcdef", *arguments]
        )
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    plain = run()
    assert run("--lora", f"{good}=0") == plain
    assert run("--lora", str(good))[1] != plain[1]
    assert run("--lora", str(good), "--lora", f"{good}=-1") == plain
    status, _, complaint = run("--lora", str(bad))
    assert status == 1
    assert "not finite" in complaint
    assert len(complaint.splitlines()) == 1
    assert run("--lora", "nowhere.gguf")[0] == 1
    assert run("--lora", f"{good}=many")[0] == 2
    # An adapter is no model.
    assert main(["run", "-m", str(good), "hello there"]) == 1
    assert "is a LoRA adapter, expected a model" in capsys.readouterr().err


def test_adapters_count_as_memory_before_anything_is_loaded(model: Path, tmp_path: Path) -> None:
    path = write_adapter(tmp_path / "one.gguf")
    with edgellm.load(model, lora=[path]) as loaded:
        needed = sum(loaded.memory.values())
        assert loaded.memory["adapters"] > 0
    with pytest.raises(MemoryLimitError, match="adapters"):
        edgellm.load(model, lora=[path], max_memory=needed - 1)
    with edgellm.load(model) as plain:
        assert "adapters" not in plain.memory
    with pytest.raises(UsageError, match="lora needs one of the backends"):
        LoadOptions(backend="llama_cpp", lora=(AdapterFile(path),))
