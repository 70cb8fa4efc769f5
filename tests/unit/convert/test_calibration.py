"""Calibration: the text, second moments, files with error feedback, interrupted runs, hostile texts."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm.benchmark.probe import FormatRate, Rates
from edgellm.cli import main
from edgellm.convert import allocation, calibrating, calibration, moments, pipeline, reading, receipt
from edgellm.convert.allocation import Option, allocate
from edgellm.convert.calibration import WINDOW, bundled_texts, calibrate, held_out_texts, passages, sequences
from edgellm.convert.moments import read_moments
from edgellm.device.limits import Limits
from edgellm.errors import size_text
from edgellm.families import build
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import GGMLType
from edgellm.program.interpreter import Interpreter
from edgellm.quant import native
from edgellm.quant.native import n_bytes
from edgellm.tokenizer import Tokenizer
from tests.support.checkpoints import write_checkpoint
from tests.support.references import float_weights, shapes

pytest.importorskip("edgellm._native", reason="needs the built extension module")


_FIGURES = ("tokens", "kld", "kld_error", "kld_p99", "plain_bytes", "plain_kld")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    path = folder / "f32.gguf"
    checkpoint = write_checkpoint(folder / "Model")
    assert main(["convert", str(checkpoint), str(path), "--type", "F32", "--no-receipt"]) == 0
    return path


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tokens as a test has time for."""
    monkeypatch.setattr(calibrating, "FULL_TOKENS", 1536)
    monkeypatch.setattr(receipt, "CALIBRATED_TOKENS", 1024)


def test_the_bundled_text_is_varied() -> None:
    texts = [*bundled_texts(), *held_out_texts()]
    assert all(text not in held_out_texts() for text in bundled_texts())
    turns = [text for text in texts if not isinstance(text, str)]
    assert len(turns) >= 8
    assert {turn["role"] for conversation in turns for turn in conversation} == {
        "system",
        "user",
        "assistant",
    }
    joined = "\n".join(text for text in texts if isinstance(text, str))
    assert all(sign in joined for sign in "ßéñя的の는اहğżếςรř{")
    assert "def " in joined
    assert "#include" in joined
    assert len(joined) > 50_000


def test_passages_are_spread_over_a_long_text() -> None:
    text = "".join(f"line {i}\n" for i in range(500_000))
    found = passages(text, 16384)
    assert sum(map(len, found)) <= 3.1 * 16384
    numbers = [int(passage.split("line ")[1].split()[0]) for passage in found]
    assert numbers == sorted(numbers)
    assert numbers[-1] > 200_000
    assert passages(" \n", 1024) == []


def test_moments_are_the_means_of_products_of_inputs(model: Path, tmp_path: Path) -> None:
    with GGUFFile.open(model) as file:
        program, weights = build(file.metadata, shapes(file)), float_weights(file)
    texts = [[5, 80, 17, 200, 33], [7, 7, 9]]
    found = calibrate(program, weights, texts, threads=2, moments=tmp_path)
    seen: dict[str, list[np.ndarray]] = {}

    def observe(name: str, number: int, rows: np.ndarray) -> None:
        seen.setdefault(name, []).append(rows)

    for ids in texts:
        Interpreter(program, weights, observe).logits(ids)
    assert set(found.moments) == set(seen)
    for name, rows in seen.items():
        x = np.concatenate(rows).astype(np.float64)
        means, n_rows = read_moments(found.moments[name], 0, threads=1) or (np.zeros(0, np.float32), 0)
        assert n_rows == len(x)
        np.testing.assert_allclose(means, x.T @ x / len(x), rtol=1e-3, atol=1e-4 * np.abs(means).max())
        np.testing.assert_array_equal(means, means.T)
    # Matrices with the same input share a file.
    assert found.moments["blk.0.attn_q.weight"] == found.moments["blk.0.attn_v.weight"]


def test_sequences_have_what_the_model_wants_around_a_text(model: Path) -> None:
    with GGUFFile.open(model) as file:
        tokenizer = Tokenizer.from_metadata(file.metadata)
    before, after = tokenizer.surroundings
    found = sequences(bundled_texts(), tokenizer, 2000, 4096)
    assert 4 <= len(found) <= 5
    assert all(len(ids) <= WINDOW and ids[: len(before)] == before for ids in found)
    ids = tokenizer.encode("a\n\n", add_special=False)
    assert sequences(["a"], tokenizer, 2000, 4096) == [[*before, *ids, *after]]


def test_a_large_model_reads_less(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[str, list[int]] = {"calibrate": [], "sensitivities": []}

    def counted(name: str, original: Any, at: int, *given: Any, **more: Any) -> Any:
        read[name].append(sum(map(len, given[at])))
        return original(*given, **more)

    for name, at in (("calibrate", 2), ("sensitivities", 3)):
        monkeypatch.setattr(calibrating, name, partial(counted, name, getattr(calibrating, name), at))
    for number, large in enumerate((calibrating.LARGE, 1)):
        monkeypatch.setattr(calibrating, "LARGE", large)
        options = ["--bpw", "5.5", "--no-receipt"]
        assert main(["quantize", str(model), str(tmp_path / f"{number}.gguf"), *options]) == 0
    usual, large = read["calibrate"]
    assert 0.7 < large / usual < 0.9  # whole windows
    usual, large = read["sensitivities"]
    assert large == usual // 2


@pytest.mark.parametrize("kind", ["Q4_0", "IQ4_NL"])
def test_bytes_do_not_depend_on_threads(model: Path, tmp_path: Path, kind: str) -> None:
    files = []
    for threads in ("1", "2"):
        out = tmp_path / f"{threads}.gguf"
        options = ["--calibrate", "default", "--threads", threads, "--no-receipt"]
        assert main(["quantize", str(model), str(out), "--type", kind, *options]) == 0
        assert not out.with_name(out.name + ".calibration").exists()
        files.append(out.read_bytes())
    assert files[0] == files[1]


def test_bytes_do_not_depend_on_the_instruction_set(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--bpw", "5.5", "--no-receipt", "--threads", "1"]
    own, scalar = tmp_path / "own.gguf", tmp_path / "scalar.gguf"
    assert main(["quantize", str(model), str(own), *options]) == 0
    for module, names in (
        (reading, ("multiply", "exponentials")),
        (calibration, ("add_moments",)),
        (allocation, ("multiply",)),
        (moments, ("add_moments",)),
        (pipeline, ("Feedback",)),
        (native, ("encode_rows",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, partial(getattr(module, name), scalar=True))
    assert main(["quantize", str(model), str(scalar), *options]) == 0
    assert own.read_bytes() == scalar.read_bytes()


def test_the_receipt_of_a_calibrated_file_reads_what_calibration_has_not(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.gguf"
    assert main(["quantize", str(model), str(out), "--type", "Q4_0", "--calibrate", "default"]) == 0
    with GGUFFile.open(out) as file:
        quality = {key: float(str(file.metadata[f"edgellm.quality.{key}"])) for key in _FIGURES}
        plain = str(file.metadata["edgellm.quality.plain_type"]).strip()
        n_tensor_bytes = sum(n_bytes(info.type, info.shape) for info in file.tensors.values())
    assert quality["tokens"] >= 1024
    assert 0 < quality["kld_error"] < quality["kld"] < quality["kld_p99"]
    said = capsys.readouterr().err
    assert f"KLD {quality['kld']:.4f} ± {quality['kld_error']:.4f}" in said
    # The usual formats of that size lose more, and nothing of that file stays.
    assert plain == "Q4_0"
    assert quality["plain_bytes"] == n_tensor_bytes
    assert quality["plain_kld"] > quality["kld"]
    assert f"plain Q4_0 ({size_text(n_tensor_bytes)}): KLD about {quality['plain_kld']:.4f}" in said
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


@pytest.mark.parametrize(
    "text", ["word", "\x00\x01\n" * 50, "ༀ ༁ ཀ ཁ ག ང ཅ " * 200, "Ten megabytes of this. " * 440_000]
)
def test_any_text_will_do(model: Path, tmp_path: Path, text: str) -> None:
    own = tmp_path / "own.txt"
    own.write_text(text, "utf-8")
    out = tmp_path / "out.gguf"
    assert main(["quantize", str(model), str(out), "--type", "Q4_0", "--calibrate", str(own)]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "holds no text"), (b" \n", "holds no text"), (b"\xff\xfe", "as UTF-8 text")],
)
def test_what_is_no_text_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    own = tmp_path / "own.txt"
    own.write_bytes(content)
    out = tmp_path / "out.gguf"
    assert main(["quantize", str(model), str(out), "--calibrate", str(own)]) != 0
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [own]


def test_an_interrupted_run_keeps_its_calibration(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    options = ["--type", "Q4_0", "--calibrate", "default"]
    assert main(["quantize", str(model), str(whole), *options]) == 0

    def interrupted(*args: object, **named: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("edgellm.convert.writing.write", interrupted)
        assert main(["quantize", str(model), str(out), *options]) != 0
    kept = tmp_path / "out.gguf.calibration"
    assert "identity" in json.loads((kept / "index.json").read_text())
    with monkeypatch.context() as patched:
        patched.setattr(calibrating, "calibrate", interrupted)
        assert main(["quantize", str(model), str(out), *options, "--resume"]) == 0
    assert not kept.exists()
    assert out.read_bytes() == whole.read_bytes()


def choices(costs: dict[str, list[tuple[int, float]]]) -> dict[str, list[Option]]:
    kinds = list(GGMLType)
    return {
        name: [Option(kinds[i], n_bytes, cost) for i, (n_bytes, cost) in enumerate(found)]
        for name, found in costs.items()
    }


def test_bytes_go_where_they_pay() -> None:
    given = choices(
        {"a": [(10, 9.0), (20, 1.0), (40, 0.5)], "b": [(10, 5.0), (30, 0.1)], "c": [(5, 0.0), (50, 0.0)]}
    )
    best = min(
        (sum(option.cost for option in picked), picked)
        for picked in itertools.product(*given.values())
        if sum(option.n_bytes for option in picked) <= 60
    )
    chosen = allocate(given, 60)
    assert sum(option.cost for option in chosen.values()) == best[0]
    assert {name: option.n_bytes for name, option in chosen.items()} == {"a": 20, "b": 30, "c": 5}
    # Never more than the bytes, and the smallest of all where nothing else fits.
    assert {option.n_bytes for option in allocate(given, 25).values()} == {10, 5}
    for room in range(25, 130):
        assert sum(option.n_bytes for option in allocate(given, room).values()) <= room


class Rows:
    """A matrix as the source of a tensor."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        self._values = values

    def pieces(self) -> Iterator[NDArray[np.float32]]:
        yield self._values


def test_errors_are_shares_of_the_output(tmp_path: Path) -> None:
    """A layer that gives little loses little: its errors count as much as those of one that gives a lot."""
    rng = np.random.default_rng(6)
    values = rng.standard_normal((40, 256)).astype(np.float32)
    inputs = rng.standard_normal((500, 256)).astype(np.float32)
    path = moments.write_means(tmp_path / "0", inputs.T @ inputs, 500)
    kinds = [GGMLType.Q3_K, GGMLType.Q6_K]
    found = [
        allocation.errors(
            pipeline.Tensor("a", values.shape, kinds[0], Rows(scale * values), None, kept), kinds, threads=1
        )
        for scale in (np.float32(1), np.float32(32))
        for kept in (None, path)
    ]
    np.testing.assert_allclose(found, [found[0]] * 4, rtol=0.1)
    assert 0.005 < found[0][0] < 0.05
    assert found[0][1] < found[0][0] / 20


def test_feedback_leaves_less_of_an_error_where_columns_move_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    values = Rows(rng.standard_normal((40, 256)).astype(np.float32))
    kinds = [GGMLType.Q3_K, GGMLType.Q6_K, GGMLType.Q8_0]
    found = []
    for number, mixing in enumerate((np.eye(256), rng.standard_normal((16, 256)))):
        inputs = rng.standard_normal((500, len(mixing))) @ mixing
        path = moments.write_means(
            tmp_path / str(number), (inputs.T @ inputs).astype(np.float32), len(inputs)
        )
        tensor = pipeline.Tensor("a", (40, 256), kinds[0], values, None, path)
        found.append(allocation.shares_left(tensor, kinds, pipeline.Feedbacks(1), threads=1))
    apart, together = found
    assert 0.8 < apart[GGMLType.Q3_K] < 1.05
    assert together[GGMLType.Q3_K] < 0.5
    assert together[GGMLType.Q6_K] < 0.5
    # The format takes no feedback.
    assert apart[GGMLType.Q8_0] == together[GGMLType.Q8_0] == 1.0


def test_the_first_layers_are_groups_of_their_own() -> None:
    groups = [allocation.group(f"blk.{layer}.ffn_up.weight", 8) for layer in range(8)]
    assert [groups.index(name) for name in groups] == [0, 1, 2, 2, 2, 5, 5, 5]
    assert allocation.group("output.weight", 8) == "output.weight"
    for n_layers in (1, 2, 3):
        names = {allocation.group(f"blk.{layer}.ffn_up.weight", n_layers) for layer in range(n_layers)}
        assert len(names) == n_layers


def test_formats_keep_up() -> None:
    """The formats that cost least are slow: some of them are given up, the bytes are kept."""
    kinds = list(GGMLType)
    rng = np.random.default_rng(5)
    given = {
        name: [
            Option(kinds[i], size, cost + rng.random(), size * slowness)
            for i, (size, cost, slowness) in enumerate([(10, 9, 1), (20, 3, 3), (21, 3, 1), (40, 0, 1)])
        ]
        for name in "abcdef"
    }
    for seconds in (math.inf, 300.0, 200.0, 120.0, 60.0):
        chosen = allocate(given, 150, seconds).values()
        assert sum(option.n_bytes for option in chosen) <= 150
        assert sum(option.seconds for option in chosen) <= seconds
        fits = [
            picked
            for picked in itertools.product(*given.values())
            if sum(option.n_bytes for option in picked) <= 150
            and sum(option.seconds for option in picked) <= seconds
        ]
        least = min(sum(option.cost for option in picked) for picked in fits)
        assert sum(option.cost for option in chosen) <= 1.1 * least
    # None is as fast as this.
    assert sum(option.seconds for option in allocate(given, 150, 30.0).values()) == 60


class SlowFives:
    """Rates of a machine on which formats with a fifth bit are slow."""

    def rates(self, formats: Iterable[str], *, threads: int) -> Rates:
        found = {name: FormatRate(1e-7 if name.startswith("Q5") else 1e-9, 1e-9) for name in formats}
        return Rates(
            "avx2", threads, "F16", 1e-9, 0.0, 0.0, 0.0, 0.0, Limits(threads, "avx2", 1.0, 1.0, 1.0), found
        )


def test_slow_formats_are_left_out(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgellm.commands.writing.rate_book", SlowFives)
    found = []
    for number, speed in enumerate(("1", "5000")):
        out = tmp_path / f"{number}.gguf"
        assert main(["quantize", str(model), str(out), "--min-speed", speed, "--bpw", "7"]) == 0
        with GGUFFile.open(out) as file:
            found.append({info.type.name for info in file.tensors.values()})
    assert any(kind.startswith("Q5") for kind in found[0])
    assert not any(kind.startswith("Q5") for kind in found[1])
    capsys.readouterr()
    for speed, message in (
        ("1e9", "expected to miss --min-speed"),
        ("0", "expected tokens a second above 0"),
    ):
        assert main(["quantize", str(model), str(tmp_path / "no.gguf"), "--min-speed", speed]) != 0
        assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("no.gguf*"))


@pytest.mark.parametrize("options", [["--best"], ["--bpw", "6.0"], ["--size", "120K"]])
def test_formats_are_chosen_within_the_size(
    model: Path, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    plain, out = tmp_path / "plain.gguf", tmp_path / "out.gguf"
    assert main(["quantize", str(model), str(plain), "--no-receipt"]) == 0
    assert main(["quantize", str(model), str(out), *options, "--tensor-type", "blk.0.ffn_up=Q4_0"]) == 0
    assert "formats: " in capsys.readouterr().err
    with GGUFFile.open(out) as file, GGUFFile.open(plain) as other:
        kinds = {name: info.type for name, info in file.tensors.items()}
        sizes = [
            sum(n_bytes(info.type, info.shape) for info in given.tensors.values()) for given in (file, other)
        ]
        n_weights = sum(math.prod(info.shape) for info in file.tensors.values())
    assert kinds["blk.0.ffn_up.weight"] == GGMLType.Q4_0
    assert kinds["blk.0.attn_norm.weight"] == GGMLType.F32
    assert len(set(kinds.values())) >= 3
    match options:
        case ["--best"]:
            assert sizes[0] <= sizes[1]
        case ["--bpw", _]:
            assert 5.5 < 8 * sizes[0] / n_weights <= 6.0
        case _:
            assert 0.9 * 120 * 1024 < out.stat().st_size <= 120 * 1024


def test_a_size_that_nothing_fits_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.gguf"
    assert main(["quantize", str(model), str(out), "--bpw", "2"]) != 0
    assert "ask for a larger file" in capsys.readouterr().err
    assert not out.exists()
    assert not out.with_name(out.name + ".calibration").exists()
