"""`edgellm convert` and `edgellm quantize`: their files, their refusals, and the files left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.cli import main
from edgellm.convert.quality import word
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import GGMLType
from tests.support.checkpoints import CONFIG, save, tokenizer_json, weights, write_checkpoint, write_shards

pytest.importorskip("edgellm._native", reason="needs the built extension module")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "Tiny-Llama")


def test_convert_writes_a_file_with_its_receipt(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.gguf"
    assert main(["convert", str(checkpoint), str(out), "--type", "Q8_0"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n"
    assert re.search(r"quality (very good|good|fair|poor): top-1 .* KLD [\d.]+ ± [\d.]+ ", captured.err)
    with GGUFFile.open(out) as file:
        assert file.metadata["general.name"] == "Tiny Llama"
        assert file.metadata["edgellm.quality.tokens"] == 512
        assert float(str(file.metadata["edgellm.quality.kld"])) < 0.01
        assert float(str(file.metadata["edgellm.quality.top1"])) > 0.8
        assert 0.001 < float(str(file.metadata["edgellm.quality.worst_error"])) < 0.01
        assert str(file.metadata["edgellm.quality.worst_tensor"]).strip() in file.tensors
        assert file.metadata["edgellm.quality.source"] == "Tiny-Llama"
        digest = str(file.metadata["edgellm.quality.source_sha256"])
        assert len(digest) == 64
        assert digest != "0" * 64
        assert file.tensors["blk.0.ffn_up.weight"].type == GGMLType.Q8_0
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []


def test_shards_give_the_same_file_but_for_the_digest(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    shards = write_shards(tmp_path / "b" / "Tiny-Llama")
    for source, name in ((checkpoint, "a.gguf"), (shards, "b.gguf")):
        assert main(["convert", str(source), str(tmp_path / name), "--type", "Q4_0", "--no-receipt"]) == 0
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_quantizing_an_f32_file_gives_what_converting_gives(checkpoint: Path, tmp_path: Path) -> None:
    whole, direct, second = (tmp_path / name for name in ("f32.gguf", "direct.gguf", "second.gguf"))
    assert main(["convert", str(checkpoint), str(whole), "--type", "F32"]) == 0
    assert main(["convert", str(checkpoint), str(direct), "--type", "Q5_K_M"]) == 0
    assert main(["quantize", str(whole), str(second), "--type", "Q5_K_M"]) == 0
    with GGUFFile.open(direct) as a, GGUFFile.open(second) as b:
        assert list(a.tensors) == list(b.tensors)
        for name in a.tensors:
            assert a.tensors[name].type == b.tensors[name].type
            np.testing.assert_array_equal(a.data(name), b.data(name))
        for key in a.metadata:
            if not key.startswith("edgellm.quality."):
                assert a.metadata[key] == b.metadata[key], key
                assert a.metadata.value_type(key) == b.metadata.value_type(key), key
        assert a.metadata["edgellm.quality.kld"] == b.metadata["edgellm.quality.kld"]


def test_dry_run_lists_formats_and_writes_nothing(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.gguf"
    arguments = ["convert", str(checkpoint), str(out), "--dry-run", "--tensor-type", "ffn_up=Q8_0"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "blk.1.ffn_up.weight" in text
    assert "Q8_0" in text
    assert "kB" in text.splitlines()[-1]
    assert not out.exists()


def test_version_four_five_and_nested_configs_give_the_same_file(tmp_path: Path) -> None:
    five = {key: value for key, value in CONFIG.items() if key not in ("rope_theta", "torch_dtype")}
    five |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "dtype": "float32"}
    nested = {"model_type": "llama", "text_config": five}
    files = []
    for name, config in (("4", CONFIG), ("5", five), ("nested", nested)):
        folder = write_checkpoint(tmp_path / name / "Model", config)
        out = tmp_path / f"{name}.gguf"
        assert main(["convert", str(folder), str(out), "--type", "F16", "--no-receipt"]) == 0
        files.append(out.read_bytes())
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize(
    ("limit", "message"), [(["--min-top1", "1.1"], "choices agree"), (["--max-kld", "0"], "divergence")]
)
def test_a_receipt_below_the_limit_fails_and_leaves_nothing(
    limit: list[str], message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.gguf"
    assert main(["convert", str(checkpoint), str(out), "--type", "Q2_K", *limit]) == 1
    assert message in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Tiny-Llama"]


def _weights(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tensors = weights()
    change(tensors)
    save(folder / "model.safetensors", {name: ("F32", array) for name, array in tensors.items()})


def _config(folder: Path, **changes: Any) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))


def _tokenizer(folder: Path, **changes: Any) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer_json(**changes)))


def _header(folder: Path, **changes: Any) -> None:
    """Change the header's entry for the first tensor."""
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header[min(header)] |= changes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])


def _nan(tensors: dict[str, Any]) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing tensor": (
        lambda f: _weights(f, lambda t: t.pop("model.layers.1.mlp.up_proj.weight")), "up_proj.weight' is mis",
    ),
    "extra tensor": (
        lambda f: _weights(f, lambda t: t.update(extra=np.ones((4, 4), np.float32))), "'extra' has no place",
    ),
    "wrong shape": (
        lambda f: _weights(f, lambda t: t.update({"model.norm.weight": np.ones(63)})), "output_norm",
    ),
    "NaN": (lambda f: _weights(f, _nan), "blk.1.ffn_up.weight: a value is NaN"),
    "unknown model type": (lambda f: _config(f, model_type="nonesuch"), "'model_type' is 'nonesuch'"),
    "unknown activation": (lambda f: _config(f, hidden_act="swish9"), "'hidden_act' is 'swish9'"),
    "wrong type": (lambda f: _config(f, hidden_size="64"), "'hidden_size' is '64', expected an integer"),
    "unknown rope": (
        lambda f: _config(f, rope_scaling={"rope_type": "nonesuch", "factor": 2.0}), "nonesuch",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "found none of them"),
    "tokenizer not JSON": (lambda f: (f / "tokenizer.json").write_text("{"), "not JSON"),
    "tokenizer of another kind": (lambda f: _tokenizer(f, model={"type": "WordLevel"}), "tokenizer.json"),
    "tokenizer that its library panics at": (
        lambda f: _tokenizer(f, model=tokenizer_json()["model"] | {"continuing_subword_prefix": "##"}),
        "tokenizer.json cannot be used: 'slice index",
    ),
    "tokenizer with characters of control": (
        lambda f: _tokenizer(f, version="\x1b[2J"), r"version '\x1b[2J' at",
    ),
    "added tokens are a number": (lambda f: _tokenizer(f, added_tokens=3), "tokenizer.json cannot be used"),
    "kind of a tensor is a list": (
        lambda f: _header(f, dtype=["F32"]), "is ['F32'], expected one of",
    ),
    "pre-tokenizer": (
        lambda f: _tokenizer(f, pre_tokenizer={"type": "Nonesuch"}), "tokenizer.json cannot be used",
    ),
    "normalizer": (lambda f: _tokenizer(f, normalizer={"type": "Nonesuch"}), "tokenizer.json cannot be used"),
    "vocabulary too large": (
        lambda f: _weights(f, lambda t: t.update({"model.embed_tokens.weight": np.ones((9, 64))})), "below 9",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_checkpoints_are_refused_with_a_sentence(
    damage: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, message = DAMAGES[damage]
    change(checkpoint)
    assert main(["convert", str(checkpoint), str(tmp_path / "out.gguf"), "--type", "Q8_0"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Tiny-Llama"]


def test_outputs_that_cannot_be_written(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.gguf"
    assert main(["convert", str(checkpoint), str(out), "--type", "F16"]) == 0
    before = out.read_bytes()
    capsys.readouterr()
    for arguments, message in (
        (["convert", str(checkpoint), str(out)], "exists already"),
        (["quantize", str(out), str(out), "--overwrite"], "is also the input"),
        (["quantize", str(tmp_path / "none.gguf"), str(tmp_path / "x.gguf")], "none.gguf"),
        (["convert", str(tmp_path / "none"), str(tmp_path / "x.gguf")], "there is no such folder"),
        (["convert", str(checkpoint), str(tmp_path / "no" / "x.gguf")], "there is no folder"),
        (
            ["convert", str(checkpoint), str(checkpoint / "model.safetensors"), "--overwrite"],
            "also the input",
        ),
    ):
        assert main(arguments) == 1
        assert message in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main(["convert", str(checkpoint), str(out), "--type", "Q8_0", "--overwrite"]) == 0
    assert out.read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--type", "Q9"], "'Q9' is not known"),
        (["--tensor-type", "x"], "--tensor-type"),
        (["--threads", "0"], "--threads"),
        (["--no-receipt", "--max-kld", "1"], "receipt"),
    ],
)
def test_options_that_cannot_be_used(
    arguments: list[str], message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(checkpoint), str(tmp_path / "out.gguf"), *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    assert main(["convert", str(checkpoint), str(folder / "x.gguf")]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_full_disk_leaves_no_file_and_says_so(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        assert main(["convert", str(checkpoint), str(folder / "out.gguf"), "--type", "F16"]) == 1
        error = capsys.readouterr().err
        assert "the disk is full" in error
        assert "Traceback" not in error
        assert not (folder / "out.gguf").exists()
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("receipt", ["--receipt", "--no-receipt"])
def test_an_interrupted_run_is_resumed(
    receipt: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from edgellm.quant import native

    expected, out = tmp_path / "expected.gguf", tmp_path / "out.gguf"
    # The worst tensor is one of the first.
    arguments = ["--type", "Q8_0", "--tensor-type", "blk.0.attn_q=Q4_0", receipt]
    assert main(["convert", str(checkpoint), str(expected), *arguments]) == 0
    encode, calls = native.encode_rows, []

    def interrupted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return encode(*args, **options)

    monkeypatch.setattr(native, "encode_rows", interrupted)
    assert main(["convert", str(checkpoint), str(out), *arguments]) == 130
    assert "go on with --resume" in capsys.readouterr().err
    assert not out.exists()
    n_all = len(GGUFFile.open(expected).tensors)
    assert main(["convert", str(checkpoint), str(out), *arguments, "--resume"]) == 0
    assert len(calls) == 8 + n_all - 7
    assert out.read_bytes() == expected.read_bytes()
    assert not list(tmp_path.glob("*.part*"))
    shutil.rmtree(checkpoint)


def test_a_repository_is_checked_before_its_weights_are_fetched(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    asked = []

    def download(repo: str, file: str, revision: str | None = None) -> str:
        asked.append((repo, file, revision))
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config))
        return str(path)

    def fetch_all(*_: object, **__: object) -> str:
        raise OSError("not here")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch_all)
    out = str(tmp_path / "out.gguf")
    assert main(["convert", "user/repo@abc", out, "--dry-run"]) == 0
    assert (
        capsys.readouterr().out
        == "user/repo@abc: model type 'llama' is supported and makes a file of llama\n"
    )
    assert asked == [("user/repo", "config.json", "abc")]
    for change, words in (
        ({"model_type": "nonesuch"}, "'nonesuch'"),
        ({"hidden_act": "relu"}, "'hidden_act'"),
    ):
        config |= change
        assert main(["convert", "user/repo", out, *(["--dry-run"] if "hidden_act" in change else [])]) == 1
        assert f"user/repo: config.json: {words}" in capsys.readouterr().err.replace("'model_type' is ", "")
        config["model_type"] = "llama"


def test_an_output_is_named_after_the_source_and_the_type(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["convert", str(checkpoint), "--type", "q8_0", "--no-receipt"]) == 0
    said = capsys.readouterr()
    assert said.out == "Tiny-Llama-Q8_0.gguf\n"
    assert "the output is Tiny-Llama-Q8_0.gguf" in said.err
    assert "is quantized already" not in said.err
    assert main(["quantize", "Tiny-Llama-Q8_0.gguf", "--type", "F16", "--no-receipt"]) == 0
    said = capsys.readouterr()
    assert said.out == "Tiny-Llama-F16.gguf\n"
    assert re.search(r"Tiny-Llama-Q8_0.gguf is quantized already \(Q8_0, \d+ of \d+ tensors\)", said.err)


def test_rows_that_do_not_fit_the_type_are_said(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(checkpoint), str(tmp_path / "out.gguf"), "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert re.search(r"\d+ of \d+ matrices have rows that are not whole blocks of 256 values", said)
    assert "as Q4_K needs: they are written as Q" in said
    assert main(["convert", str(checkpoint), str(tmp_path / "out.gguf"), "--dry-run", "--type", "Q8_0"]) == 0
    assert "rows" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kld", "cosine", "expected"),
    [
        (0.001, 0, "very good"),
        (0.03, 0, "good"),
        (0.1, 0, "fair"),
        (0.4, 0, "poor"),
        (0, 0.995, "good"),
        (0, 0.5, "poor"),
    ],
)
def test_quality_has_a_word(kld: float, cosine: float, expected: str) -> None:
    assert word(kld, cosine) == expected
