"""The reader on well-formed files: values, tensors, split files, lazy arrays, speed of opening."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from edgellm.errors import FileError, FormatError
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import GGMLType, ValueType
from tests.support.gguf_builder import GGUFBuilder


def write(tmp_path: Path, builder: GGUFBuilder, name: str = "model.gguf") -> Path:
    return builder.write(tmp_path / name)


@pytest.mark.parametrize("version", [2, 3])
def test_scalars_of_every_type(tmp_path: Path, version: int) -> None:
    cases: list[tuple[ValueType, int | float | bool | str]] = [
        (ValueType.UINT8, 255),
        (ValueType.INT8, -128),
        (ValueType.UINT16, 65535),
        (ValueType.INT16, -32768),
        (ValueType.UINT32, 2**32 - 1),
        (ValueType.INT32, -(2**31)),
        (ValueType.FLOAT32, 0.5),
        (ValueType.BOOL, True),
        (ValueType.STRING, "grüße \0 日本"),
        (ValueType.UINT64, 2**64 - 1),
        (ValueType.INT64, -(2**63)),
        (ValueType.FLOAT64, 0.1),
    ]
    builder = GGUFBuilder(version=version)
    for kind, value in cases:
        builder.kv(f"test.{kind.name.lower()}", value, kind)
    file = GGUFFile.open(write(tmp_path, builder))
    assert file.version == version
    assert file.alignment == 32
    assert list(file.metadata) == [f"test.{kind.name.lower()}" for kind, _ in cases]
    for kind, value in cases:
        found = file.metadata[f"test.{kind.name.lower()}"]
        assert found == value
        assert type(found) is type(value)
        assert file.metadata.value_type(f"test.{kind.name.lower()}") is kind
        assert file.metadata.element_type(f"test.{kind.name.lower()}") is None
    assert file.tensors == {}


def test_arrays(tmp_path: Path) -> None:
    builder = GGUFBuilder()
    builder.kv("ints", [-1, 2, 3], element=ValueType.INT16)
    builder.kv("floats", [0.5, 1.5])
    builder.kv("bools", [True, False])
    builder.kv("strings", ["a", "", "日本", "x" * 300, "\0\0\0\0\0\0\0\0\0"])
    builder.kv("none", [], element=ValueType.STRING)
    metadata = GGUFFile.open(write(tmp_path, builder)).metadata
    assert metadata["ints"] == [-1, 2, 3]
    assert metadata["floats"] == [0.5, 1.5]
    assert metadata["bools"] == [True, False]
    assert metadata["strings"] == ["a", "", "日本", "x" * 300, "\0\0\0\0\0\0\0\0\0"]
    assert metadata["none"] == []
    assert metadata["strings"] is metadata["strings"]
    assert metadata.array_length("strings") == 5
    assert metadata.element_type("ints") is ValueType.INT16
    assert metadata.numbers("floats").format == "f"
    strings = metadata.strings("strings")
    assert strings.n == 5
    assert strings.data[strings.start : strings.start + 9].tobytes() == b"\1" + bytes(7) + b"a"


def test_tensors(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    builder = GGUFBuilder().tensor("a", GGMLType.F32, (2, 3, 4), values).tensor("b", GGMLType.Q8_0, (3, 64))
    with GGUFFile.open(write(tmp_path, builder)) as file:
        assert list(file.tensors) == ["a", "b"]
        info = file.tensors["a"]
        assert (info.type, info.shape, info.n_bytes, info.part) == (GGMLType.F32, (2, 3, 4), 96, 0)
        raw = file.data("a")
        assert raw.dtype == np.uint8
        assert not raw.flags.writeable
        np.testing.assert_array_equal(raw.view(np.float32).reshape(info.shape), values)
        assert file.tensors["b"].n_bytes == 3 * 2 * 34
        file.release("a")
        np.testing.assert_array_equal(raw.view(np.float32).reshape(info.shape), values)
    np.testing.assert_array_equal(raw.view(np.float32).reshape(2, 3, 4), values)


def test_alignment_is_used(tmp_path: Path) -> None:
    builder = GGUFBuilder(alignment=4096).kv("general.alignment", 4096)
    builder.tensor("a", GGMLType.I8, (5,), b"abcde").tensor("b", GGMLType.I8, (3,), b"xyz")
    file = GGUFFile.open(write(tmp_path, builder))
    assert file.alignment == 4096
    assert file.tensors["b"].offset == 8192
    assert file.data("b").tobytes() == b"xyz"


def split_parts(tmp_path: Path, count: int = 3) -> list[Path]:
    paths = []
    for index in range(count):
        builder = GGUFBuilder()
        if index == 0:
            builder.kv("general.architecture", "llama")
        builder.kv("split.no", index, ValueType.UINT16)
        builder.kv("split.count", count, ValueType.UINT16)
        builder.kv("split.tensors.count", count, ValueType.INT32)
        builder.tensor(f"t{index}", GGMLType.I8, (2,), bytes([index, index]))
        paths.append(write(tmp_path, builder, f"m-{index + 1:05d}-of-{count:05d}.gguf"))
    return paths


def test_any_part_opens_a_split_file(tmp_path: Path) -> None:
    paths = split_parts(tmp_path)
    for path in paths:
        file = GGUFFile.open(path)
        assert file.path == paths[0]
        assert file.paths == tuple(paths)
        assert list(file.tensors) == ["t0", "t1", "t2"]
        assert [file.data(f"t{i}").tolist() for i in range(3)] == [[0, 0], [1, 1], [2, 2]]
        assert file.tensors["t2"].part == 2
        assert file.metadata["general.architecture"] == "llama"


def test_a_file_that_was_joined_from_parts_is_whole(tmp_path: Path) -> None:
    """llama-gguf-split --merge keeps the first part's keys and writes a count of 0."""
    builder = GGUFBuilder()
    builder.kv("split.no", 0, ValueType.UINT16)
    builder.kv("split.tensors.count", 3, ValueType.INT32)
    builder.kv("split.count", 0, ValueType.UINT16)
    builder.tensor("t", GGMLType.I8, (2,), bytes(2))
    for name in ("m.gguf", "m-00001-of-00003.gguf"):
        assert list(GGUFFile.open(write(tmp_path, builder, name)).tensors) == ["t"]


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    paths = split_parts(tmp_path)
    paths[1].unlink()
    with pytest.raises(FileError, match=r"m-00002-of-00003\.gguf: part 2 of 3 is missing"):
        GGUFFile.open(paths[2])


def test_large_vocabularies_open_fast(tmp_path: Path) -> None:
    tokens = [f"token{i}" for i in range(262_144)]
    tokens[1000] = ""
    tokens[2000] = "x" * 5000
    tokens[3000] = "\0" * 20
    builder = GGUFBuilder().kv("tokenizer.ggml.tokens", tokens).kv("tokenizer.ggml.scores", [0.0] * 262_144)
    path = write(tmp_path, builder)
    best = 10.0
    for _ in range(3):
        start = time.perf_counter()
        file = GGUFFile.open(path)
        best = min(best, time.perf_counter() - start)
    assert file.metadata["tokenizer.ggml.tokens"] == tokens
    assert best < 0.12


def test_text_that_is_not_utf8_is_refused_on_use(tmp_path: Path) -> None:
    path = write(tmp_path, GGUFBuilder().kv("tokenizer.k", ["good", b"\xff\xfe"]))
    metadata = GGUFFile.open(path).metadata
    with pytest.raises(
        FormatError, match=r"string 1 of metadata key 'tokenizer.k' is b'\\xff\\xfe', expected valid UTF-8"
    ):
        metadata["tokenizer.k"]


@pytest.mark.parametrize("alignment", [8, 24, 40, 64, 1000])
def test_alignments_are_multiples_of_eight(alignment: int, tmp_path: Path) -> None:
    builder = GGUFBuilder(alignment=alignment).kv("general.alignment", alignment)
    builder.tensor("a", GGMLType.F32, (3,), np.arange(3, dtype="<f4").tobytes())
    builder.tensor("b", GGMLType.F32, (2,), np.arange(2, dtype="<f4").tobytes())
    with GGUFFile.open(builder.write(tmp_path / "x.gguf")) as file:
        assert file.data("a").view("<f4").tolist() == [0, 1, 2]
        assert file.data("b").view("<f4").tolist() == [0, 1]
        assert file.tensors["b"].offset % alignment == file.tensors["a"].offset % alignment == 0


def test_text_that_nobody_needs_may_be_damaged(tmp_path: Path) -> None:
    builder = GGUFBuilder().kv("general.architecture", "llama")
    for key in ("general.author", "anything.at.all", "quantize.imatrix.file"):
        builder.kv(key, b"a\xff\xfeb", ValueType.STRING)
    builder.kv("general.tags", [b"ok", b"\xc3"], ValueType.ARRAY, ValueType.STRING)
    with GGUFFile.open(builder.write(tmp_path / "x.gguf")) as file:
        assert file.metadata["general.author"] == "a\ufffd\ufffdb"
        assert file.metadata["general.tags"] == ["ok", "\ufffd"]
        assert len(file.metadata.warnings) == 3
    for key in ("general.architecture", "general.type", "tokenizer.ggml.model", "split.x"):
        with pytest.raises(FormatError, match="expected valid UTF-8"):
            GGUFFile.open(GGUFBuilder().kv(key, b"\xff", ValueType.STRING).write(tmp_path / "y.gguf"))
