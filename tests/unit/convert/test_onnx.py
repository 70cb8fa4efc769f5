"""`edgellm convert --format onnx`: the folder's contents, refusals, and the state after an interruption."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from math import prod
from pathlib import Path
from types import SimpleNamespace

import pytest

import edgellm
from edgellm.cli import main
from edgellm.convert import onnx_folder
from edgellm.gguf.reader import GGUFFile
from edgellm.program.exported import stored_program
from tests.support.checkpoints import write_checkpoint
from tests.support.references import official_gguf, unpacked

pytest.importorskip("edgellm._native", reason="needs the built extension module")
onnx = pytest.importorskip("onnx", reason="needs the onnx extra")
pytest.importorskip("onnxruntime", reason="needs the onnx extra")

__all__ = ["unpacked"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "Tiny-Llama")


def convert(source: Path, folder: Path, *options: str) -> int:
    return main(["convert", str(source), str(folder), "--format", "onnx", *options])


def nothing_else(folder: Path, checkpoint: Path) -> bool:
    return [path.name for path in folder.iterdir()] == [checkpoint.name]


def test_the_folder_holds_what_its_readers_expect(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert convert(checkpoint, out) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n"
    assert "top-1" in captured.err
    names = {path.name for path in out.iterdir()}
    assert {"model.onnx", "model.onnx.data", "edgellm.gguf", "config.json", "tokenizer.json"} <= names
    assert (out / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()
    model = onnx.load(out / "model.onnx", load_external_data=False)
    given = {value.name for value in model.graph.input}
    made = {value.name for value in model.graph.output}
    decoder = json.loads((out / "genai_config.json").read_text())["model"]["decoder"]
    for key, names_of in (("inputs", given), ("outputs", made)):
        for name in decoder[key].values():
            assert {name.replace("%d", str(i)) for i in range(decoder["num_hidden_layers"])} <= names_of
    kinds = {node.op_type for node in model.graph.node}
    assert {"MatMulNBits", "GroupQueryAttention"} <= kinds
    blocks = {a.i for n in model.graph.node for a in n.attribute if a.name == "block_size"}
    assert blocks == {32}
    size = (out / "model.onnx.data").stat().st_size
    for tensor in model.graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if place:
            assert int(place["offset"]) + int(place["length"]) <= size
    with GGUFFile.open(out / "edgellm.gguf") as file:
        assert file.metadata["edgellm.quality.tokens"] == 512
        assert 0 < float(str(file.metadata["edgellm.quality.worst_error"])) < 0.1
        assert len(str(file.metadata["edgellm.quality.source_sha256"])) == 64


def test_a_gguf_file_gives_the_same_weights(checkpoint: Path, tmp_path: Path) -> None:
    whole = tmp_path / "f32.gguf"
    assert main(["convert", str(checkpoint), str(whole), "--type", "F32", "--no-receipt"]) == 0
    assert convert(checkpoint, tmp_path / "a", "--no-receipt") == 0
    assert convert(whole, tmp_path / "b", "--no-receipt") == 0
    a, b = ((tmp_path / name / "model.onnx.data").read_bytes() for name in "ab")
    assert a == b
    with edgellm.load(tmp_path / "b", context=64, threads=1) as model:
        assert model.name == "Tiny Llama"


def test_dry_run_lists_weights_and_writes_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(checkpoint, tmp_path / "out", "--dry-run") == 0
    assert "int4" in capsys.readouterr().out
    assert nothing_else(tmp_path, checkpoint)


@pytest.mark.parametrize("options", [["--best"], ["--bpw", "6.5"], ["--size", "130K"]])
def test_formats_are_chosen_within_the_size(
    options: list[str], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, out = tmp_path / "plain", tmp_path / "out"
    assert convert(checkpoint, plain, "--no-receipt") == 0
    assert convert(checkpoint, out, *options) == 0
    said = capsys.readouterr().err
    assert "formats: " in said
    assert "top-1" in said
    assert not out.with_name("out.calibration").exists()
    n_bytes, n_plain = ((folder / "model.onnx.data").stat().st_size for folder in (out, plain))
    with GGUFFile.open(out / "edgellm.gguf") as file:
        program = stored_program(file.metadata)
    n_weights = sum(prod(shape) for shape in program.weights.values())
    match options:
        case ["--best"]:
            assert 0.9 * n_plain < n_bytes <= n_plain
        case ["--bpw", _]:
            assert 6.0 < 8 * n_bytes / n_weights <= 6.5
        case _:
            names = ("model.onnx", "model.onnx.data", "edgellm.gguf")
            total = sum((out / name).stat().st_size for name in names)
            assert 0.8 * 130 * 1024 < total <= 130 * 1024
    with edgellm.load(out, context=64, threads=1) as model:
        assert model.logits([1, 2, 3]).shape[0] == 3


def test_a_size_that_nothing_fits_is_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(checkpoint, tmp_path / "out", "--bpw", "3") != 0
    assert "ask for a larger folder" in capsys.readouterr().err
    assert nothing_else(tmp_path, checkpoint)


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        (["--type", "Q4_K_M"], 2, "INT4, F32"),
        (["--type", "F32", "--best"], 2, "are for quantized types"),
        (["--resume"], 2, "--resume is for GGUF"),
        (["--tensor-type", "ffn=Q8_0"], 2, "--tensor-type is for GGUF"),
        (["--min-top1", "1.1"], 1, "agree with the source"),
        (["--max-kld", "0"], 1, "divergence"),
    ],
)
def test_what_is_refused_leaves_nothing(
    options: list[str],
    status: int,
    text: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert convert(checkpoint, tmp_path / "out", *options) == status
    assert text in capsys.readouterr().err
    assert nothing_else(tmp_path, checkpoint)


def test_an_existing_folder_is_replaced_only_if_asked_for_and_ours(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert convert(checkpoint, out) == 1
    assert "exists already" in capsys.readouterr().err
    assert convert(checkpoint, out, "--overwrite") == 1
    assert "not replaced" in capsys.readouterr().err
    assert (out / "mine.txt").read_text() == "mine"
    shutil.rmtree(out)
    assert convert(checkpoint, out, "--no-receipt") == 0
    (out / "old.txt").write_text("old")
    assert convert(checkpoint, out, "--no-receipt", "--overwrite") == 0
    assert not (out / "old.txt").exists()
    assert {path.name for path in tmp_path.iterdir()} == {checkpoint.name, "out"}


def test_a_full_disk_is_noticed_before_and_while_writing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(onnx_folder, "_sync", fail)
        assert convert(checkpoint, tmp_path / "out") == 1
        assert "the disk is full" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        assert convert(checkpoint, tmp_path / "out") == 1
        assert "1.0 kB are free" in capsys.readouterr().err
    assert nothing_else(tmp_path, checkpoint)


def test_the_receipt_needs_onnxruntime_before_any_work(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "edgellm.backends.onnx", raising=False)
    monkeypatch.setattr(onnx_folder, "_write_arrays", pytest.fail)
    assert convert(checkpoint, tmp_path / "out") == 1
    assert "pip install onnx" in capsys.readouterr().err
    assert nothing_else(tmp_path, checkpoint)


def test_an_interruption_leaves_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(onnx_folder, "_write_weight", interrupt)
    assert convert(checkpoint, tmp_path / "out") == 130
    assert nothing_else(tmp_path, checkpoint)


@pytest.mark.parametrize(("name", "word"), [("mixtral", "moe"), ("mamba2", "recurrent")])
def test_models_that_cannot_be_expressed_are_refused(
    name: str, word: str, unpacked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = official_gguf(name, unpacked)
    assert convert(source, tmp_path / "out") == 1
    assert word in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
