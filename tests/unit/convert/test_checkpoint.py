"""Reading checkpoints: their types and layouts, and every way a folder can be wrong."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.convert.checkpoint import Checkpoint
from edgellm.errors import EdgeLLMError, FileError, FormatError, ModelError, UnsupportedError
from tests.support.checkpoints import save, weights, write_checkpoint, write_shards

pytest.importorskip("edgellm._native", reason="needs the built extension module")


def test_shards_and_one_file_hold_the_same(tmp_path: Path) -> None:
    whole = Checkpoint(write_checkpoint(tmp_path / "a")).tensors
    parts = Checkpoint(write_shards(tmp_path / "b")).tensors
    assert whole.shapes == parts.shapes
    for name, expected in weights().items():
        np.testing.assert_array_equal(whole.read(name, 1), expected)
        np.testing.assert_array_equal(parts.read(name, 1), expected)
    assert len(parts.files) == 2
    assert whole.sha256() == Checkpoint(tmp_path / "a").tensors.sha256() != parts.sha256()


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_pieces_are_the_rows_in_order(dtype: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    values = np.random.default_rng(1).integers(-8, 8, (1000, 24)).astype(np.float32)
    stored = (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == "BF16" else values
    save(tmp_path / "model.safetensors", {"x": (dtype, stored)})
    pieces = list(Checkpoint(tmp_path).tensors.pieces("x", 24 * 256, 1))
    assert [len(piece) for piece in pieces] == [256, 256, 256, 232]
    np.testing.assert_array_equal(np.concatenate(pieces), values)


@pytest.mark.parametrize("kind", ["tensor", "row", "block"])
def test_fp8_is_multiplied_by_its_scales(kind: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    codes = np.random.default_rng(2).integers(0, 120, (300, 200)).astype(np.uint8)
    shape = {"tensor": (1,), "row": (300, 1), "block": (3, 2)}[kind]
    scale = np.random.default_rng(3).random(shape).astype(np.float32) + 0.5
    name = "x.weight_scale_inv" if kind == "block" else "x.weight_scale"
    save(tmp_path / "model.safetensors", {"x.weight": ("F8_E4M3", codes), name: ("F32", scale)})
    checkpoint = Checkpoint(tmp_path).tensors
    assert set(checkpoint.shapes) == {"x.weight"}
    exponent, fraction = (codes >> 3).astype(int), (codes & 7) / 8
    plain = np.where(exponent == 0, np.ldexp(fraction, -6), np.ldexp(1 + fraction, exponent - 7))
    factors = np.kron(scale, np.ones((128, 128)))[:300, :200] if kind == "block" else scale
    expected = (plain * factors).astype(np.float32)
    np.testing.assert_allclose(checkpoint.read("x.weight", 1), expected, rtol=1e-6)
    pieces = np.concatenate(list(checkpoint.pieces("x.weight", 1, 1)))
    np.testing.assert_allclose(pieces, expected, rtol=1e-6)


def test_fp8_without_scale_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    save(tmp_path / "model.safetensors", {"x.weight": ("F8_E4M3", np.zeros((4, 4), np.uint8))})
    with pytest.raises(ModelError, match=r"FP8 without a scale"):
        Checkpoint(tmp_path).tensors.read("x.weight", 1)


def _header(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    (n,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + n])
    changed = change(header)
    text = json.dumps(header if changed is None else changed).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + n :])


def _first(header: dict[str, Any]) -> dict[str, Any]:
    entry = next(iter(header.values()))
    assert isinstance(entry, dict)
    return entry


def _index(folder: Path, name: str) -> None:
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.norm.weight": name}})
    )


def _pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _truncate(folder: Path, n: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:n])


DAMAGES: dict[str, tuple[Callable[[Path], Any], type[EdgeLLMError], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), FileError, "config.json is missing"),
    "config not JSON": (lambda f: (f / "config.json").write_text("{"), FormatError, "not JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), FormatError, "a list, expected"),
    "config not UTF-8": (lambda f: (f / "config.json").write_bytes(b"\xff"), FormatError, "not UTF-8"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), FileError, "found none"),
    "pickle": (_pickle, UnsupportedError, "pickle"),
    "empty": (lambda f: _truncate(f, 0), FileError, "empty"),
    "short": (lambda f: _truncate(f, 5), FormatError, "length of its header"),
    "cut header": (lambda f: _truncate(f, 100), FormatError, "length of its header"),
    "cut data": (lambda f: _truncate(f, 50_000), FormatError, "within the file"),
    "header a list": (
        lambda f: _header(f, lambda h: [1]), FormatError, "its header is a list",
    ),
    "unknown dtype": (lambda f: _header(f, lambda h: _first(h).update(dtype="X")), FormatError, "dtype"),
    "packed dtype": (
        lambda f: _header(f, lambda h: _first(h).update(dtype="F4")), UnsupportedError, "is 'F4', a type",
    ),
    "maker's form": (
        lambda f: (f / "config.json").rename(f / "params.json"), UnsupportedError, "params.json instead",
    ),
    "wrong shape": (
        lambda f: _header(f, lambda h: _first(h).update(shape=[7])), FormatError, "size of",
    ),
    "negative shape": (
        lambda f: _header(f, lambda h: _first(h).update(shape=[-4])), FormatError, "shape of",
    ),
    "overlap": (
        lambda f: _header(f, lambda h: h["model.norm.weight"].update(data_offsets=[0, 256])),
        FormatError,
        "inside another tensor",
    ),
    "index outside": (lambda f: _index(f, "../x.safetensors"), FormatError, "expected one in the same"),
    "index absolute": (lambda f: _index(f, "/etc/passwd"), FormatError, "expected one in the same folder"),
    "index pickle": (lambda f: _index(f, "model.bin"), UnsupportedError, "expected safetensors"),
    "index unprintable": (lambda f: _index(f, "a\x1b[2J\u3000"), UnsupportedError, r"'a\\x1b\[2J"),
    "shard missing": (lambda f: _index(f, "model-2.safetensors"), FileError, "is missing, expected a part"),
    "shard too long": (lambda f: _index(f, "a" * 300 + ".safetensors"), FileError, "'a{80}' is missing"),
    "shard with NUL": (lambda f: _index(f, "a\0.safetensors"), FileError, "is missing"),
    "tensor missing from shard": (
        lambda f: (f / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"absent": "model.safetensors"}})
        ),
        FormatError,
        "'absent' is missing",
    ),
    "index without map": (
        lambda f: (f / "model.safetensors.index.json").write_text("{}"), FormatError, "weight_map",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoints_are_refused_with_a_sentence(damage: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint")
    change, error, message = DAMAGES[damage]
    change(folder)
    with pytest.raises(error, match=message) as caught:
        Checkpoint(folder)
    assert str(folder) in str(caught.value)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    folder = write_shards(tmp_path)
    second = folder / "model-00002-of-00002.safetensors"
    save(
        second, {"model.norm.weight": ("F32", np.ones(64)), "model.embed_tokens.weight": ("F32", np.ones(4))}
    )
    index = {"weight_map": {"a": second.name, "b": "model-00001-of-00002.safetensors"}}
    index["weight_map"] = {
        "model.norm.weight": second.name,
        "model.embed_tokens.weight": "model-00001-of-00002.safetensors",
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="is also in"):
        Checkpoint(folder)
