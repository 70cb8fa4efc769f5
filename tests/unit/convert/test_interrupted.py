"""Interrupted calibrations go on where they were; experts have moments of their own tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgellm.cli import main
from edgellm.convert import allocation, calibrating, calibration
from edgellm.convert.calibration import calibrate
from edgellm.convert.interrupted import State, load_state, save_state
from edgellm.convert.moments import read_moments
from edgellm.convert.pipeline import Feedbacks, Tensor
from edgellm.families import build
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import GGMLType
from edgellm.program.interpreter import Interpreter
from edgellm.quant import native
from edgellm.quant.feedback import SHRINK, shrinkage
from tests.support.checkpoints import write_checkpoint
from tests.support.references import float_weights, official_gguf, shapes, unpacked

pytest.importorskip("edgellm._native", reason="needs the built extension module")

__all__ = ["unpacked"]

TEXTS = [[5, 80, 17, 200, 33], [7, 7, 9]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "f32.gguf"
    folder = write_checkpoint(tmp_path / "Model")
    assert main(["convert", str(folder), str(path), "--type", "F32", "--no-receipt"]) == 0
    return path


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tokens, and a state at every place where one may be kept."""
    monkeypatch.setattr(calibrating, "FULL_TOKENS", 512)
    monkeypatch.setattr(calibrating, "MEASURED_TOKENS", 64)
    monkeypatch.setattr(calibration, "KEPT_EVERY", 0.0)


def test_a_state_goes_on_to_the_same_end(model: Path, tmp_path: Path) -> None:
    with GGUFFile.open(model) as file:
        program, weights = build(file.metadata, shapes(file)), float_weights(file)
    folder = tmp_path / "kept"
    folder.mkdir()
    states: list[State] = []

    def keep(state: State) -> None:
        save_state(folder, "work", state)
        loaded = load_state(folder, "work")
        assert loaded is not None
        states.append(loaded)

    whole = calibrate(program, weights, TEXTS, threads=1, moments=folder, keep=keep)
    assert 2 * len(program.caches) <= len(states) < len(program.ops)
    assert len(list(folder.glob("state-*"))) == 1
    assert load_state(folder, "other work") is None
    for begun in states[::2]:
        assert all(len(values) == 1 for values in begun.waiting)
        rest = calibrate(program, weights, TEXTS, threads=1, moments=folder, begun=begun)
        assert rest.moments == whole.moments
        for name, sums in whole.statistics.sums.items():
            np.testing.assert_array_equal(rest.statistics.sums[name], sums)


def interrupting(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, after: int
) -> Callable[[], None]:
    """Let a function of a module be called `after` times, then raise; returns what ends that."""
    function, calls = getattr(module, name), [0]

    def limited(*args: object, **named: object) -> object:
        calls[0] += 1
        if calls[0] > after:
            raise KeyboardInterrupt
        return function(*args, **named)

    monkeypatch.setattr(module, name, limited)
    return lambda: monkeypatch.setattr(module, name, function)


@pytest.mark.parametrize(
    ("module", "name", "after"), [(calibration, "add_moments", 8), (allocation, "errors", 4)]
)
def test_an_interrupted_run_goes_on(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    module: object,
    name: str,
    after: int,
) -> None:
    whole, out = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    options = ["--best", "--threads", "1", "--no-receipt"]
    assert main(["quantize", str(model), str(whole), *options]) == 0
    end = interrupting(monkeypatch, module, name, after)
    assert main(["quantize", str(model), str(out), *options]) != 0
    end()
    assert not out.exists()
    folder = tmp_path / "out.gguf.calibration"
    assert folder.exists()
    first: list[int] = []
    steps = Interpreter.steps

    def counted(self: Interpreter, sequences: object, n_done: int = 0, waiting: object = ()) -> object:
        first.append(n_done)
        return steps(self, sequences, n_done, waiting)  # type: ignore[arg-type]

    measured: list[str] = []
    unchanged = allocation._Changed

    def changed(weights: object, tensors: dict[str, Tensor], threads: int) -> object:
        measured.append(next(iter(tensors)))
        return unchanged(weights, tensors, threads)  # type: ignore[arg-type]

    monkeypatch.setattr(Interpreter, "steps", counted)
    monkeypatch.setattr(allocation, "_Changed", changed)
    assert main(["quantize", str(model), str(out), *options]) == 0
    if module is calibration:
        assert first[0] > 0
    else:
        # The text is not read again, and groups that were measured are not either.
        assert 0 < len(measured) == len(first) - 1 <= 12
    assert out.read_bytes() == whole.read_bytes()
    assert not folder.exists()


class Values:
    def __init__(self, values: np.ndarray) -> None:
        self._values = values

    def pieces(self) -> Iterator[np.ndarray]:
        yield self._values


def test_texts_are_read_again_from_the_first_other_weight_on(model: Path) -> None:
    with GGUFFile.open(model) as file:
        program, weights = build(file.metadata, shapes(file)), float_weights(file)
    names = ("blk.1.ffn_up.weight", "blk.0.attn_q.weight")
    starts = [next(i for i, op in enumerate(program.ops) if name in op.weights.values()) for name in names]
    reads: list[str] = []

    class Counted(dict[str, np.ndarray]):
        def __getitem__(self, key: str) -> np.ndarray:
            reads.append(key)
            return super().__getitem__(key)

    read = allocation._Texts(program, Counted(weights), TEXTS, set(starts), 2)
    reads.clear()
    values = {name: Values(weights[name]) for name in names}
    changed = {name: Tensor(name, weights[name].shape, GGMLType.Q4_0, values[name]) for name in names}
    # One variant from each start on, and one of which nothing differs.
    variants = {name: (start, {name: changed[name]}) for name, start in zip(names, starts, strict=True)}
    found = dict(read.divergences({"none": (starts[0], {}), **variants}))
    # Each weight is read once for all of them.
    assert len(reads) == len(set(reads))
    assert found["none"] < 1e-12
    for name in names:
        assert found[name] == dict(read.divergences({name: variants[name]}))[name]
        assert found[name] > 1e-6


def test_experts_make_up_for_errors_by_their_own_tokens(tmp_path: Path, unpacked: Path) -> None:
    with GGUFFile.open(official_gguf("mixtral", unpacked)) as file:
        program, weights = build(file.metadata, shapes(file)), float_weights(file)
    seen: dict[tuple[str, int], list[np.ndarray]] = {}

    def observe(name: str, number: int, rows: np.ndarray) -> None:
        seen.setdefault((name, number), []).append(rows)

    rng = np.random.default_rng(2)
    texts = [rng.integers(0, program.n_vocab, 60).tolist() for _ in range(2)]
    for ids in texts:
        Interpreter(program, weights, observe).logits(ids)
    found = calibrate(program, weights, texts, threads=2, moments=tmp_path)
    names = [name for name in program.weights if "_exps." in name]
    assert set(names) <= found.moments.keys()
    for name in names:
        n_experts = program.weights[name][0]
        for number in range(n_experts):
            moments = read_moments(found.moments[name], number, threads=1)
            if (name, number) not in seen:
                assert moments is None
                continue
            assert moments is not None
            x = np.concatenate(seen[name, number]).astype(np.float64)
            assert moments[1] == len(x)
            np.testing.assert_allclose(moments[0], x.T @ x / len(x), rtol=1e-3, atol=1e-3)
    assert found.moments["blk.0.ffn_gate_exps.weight"] == found.moments["blk.0.ffn_up_exps.weight"]

    name, kind = "blk.0.ffn_up_exps.weight", GGMLType.Q4_0
    tensor = Tensor(name, program.weights[name], kind, None, moments=found.moments[name])  # type: ignore[arg-type]
    for number in range(2):
        x = np.concatenate(seen[name, number])
        values = weights[name].reshape(program.weights[name])[number]
        feedback = Feedbacks(1).of(tensor, 32, number)
        assert feedback is not None
        importance = np.square(x).mean(axis=0) + 1e-6
        lost = [
            float(np.square(x @ (native.decode_values(kind, raw, values.shape, threads=1) - values).T).sum())
            for raw in (
                feedback.encode(kind, values),
                native.encode_rows(kind, values, importance / importance.mean(), threads=1),
            )
        ]
        assert lost[0] < 0.8 * lost[1]


def test_few_rows_shrink_more() -> None:
    rng = np.random.default_rng(3)
    mixing = rng.standard_normal((64, 64))

    def moments(n: int, mixed: bool) -> np.ndarray:
        x = rng.standard_normal((n, 64)) @ (mixing if mixed else np.eye(64))
        return (x.T @ x / n).astype(np.float32)

    assert shrinkage(moments(20000, True), 20000) == SHRINK
    assert 0.3 < shrinkage(moments(40, True), 40) < 0.95
    assert shrinkage(moments(40, False), 40) > 0.9
