"""The writer: both readers read back what was written, and a final name always means a whole file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgellm.errors import FileError, FormatError
from edgellm.gguf.encode import Writable, encode_value
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import LAYOUTS, GGMLType, ValueType
from edgellm.gguf.writer import GGUFWriter
from tests.support.gguf_builder import GGUFBuilder

VALUES: dict[str, tuple[Writable, ValueType | None, ValueType]] = {
    "general.architecture": ("llama", None, ValueType.STRING),
    "a.count": (32, None, ValueType.UINT32),
    "a.big": (2**40, None, ValueType.UINT64),
    "a.negative": (-1, None, ValueType.INT32),
    "a.low": (-(2**40), None, ValueType.INT64),
    "a.eps": (1e-5, None, ValueType.FLOAT32),
    "a.flag": (True, None, ValueType.BOOL),
    "a.text": ("größe 日本\n", None, ValueType.STRING),
    "a.small": (7, ValueType.UINT8, ValueType.UINT8),
    "a.double": (0.1, ValueType.FLOAT64, ValueType.FLOAT64),
    "a.whole": (1, ValueType.FLOAT32, ValueType.FLOAT32),
    "a.numpy": (np.float32(0.5), None, ValueType.FLOAT32),
    "a.ints": ([1, -2, 3], None, ValueType.ARRAY),
    "a.wide": ([1, 2**40], None, ValueType.ARRAY),
    "a.floats": ([0.5, 1, 2.5], None, ValueType.ARRAY),
    "a.bools": ([True, False], None, ValueType.ARRAY),
    "a.strings": (["a", "", "日本"], None, ValueType.ARRAY),
    "a.unsigned": ([1, 2], ValueType.UINT32, ValueType.ARRAY),
    "a.array": (np.arange(4, dtype=np.int16), None, ValueType.ARRAY),
}


def write(path: Path, alignment: int) -> GGUFWriter:
    writer = GGUFWriter(path, alignment)
    for key, (value, kind, _) in VALUES.items():
        writer.set(key, value, kind)
    for name, (tensor_type, shape) in TENSORS.items():
        writer.add_tensor(name, tensor_type, shape)
    return writer


def random_bytes(info_bytes: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, info_bytes, dtype=np.uint8)


TENSORS: dict[str, tuple[GGMLType, tuple[int, ...]]] = {
    f"t.{kind.name}": (kind, (2, 3, 256)) for kind in GGMLType if kind not in (GGMLType.Q8_1, GGMLType.Q8_K)
}


@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_both_readers_read_it_back(tmp_path: Path, alignment: int) -> None:
    path = tmp_path / "model.gguf"
    with write(path, alignment) as writer:
        writer.write_header()
        raws = {}
        for seed, (name, (kind, shape)) in enumerate(reversed(TENSORS.items())):
            layout = LAYOUTS[kind]
            raws[name] = random_bytes(int(np.prod(shape)) // layout.block_size * layout.block_bytes, seed)
            writer.write_tensor(name, raws[name])
        writer.finish()
    ours = GGUFFile.open(path)
    theirs = gguf.GGUFReader(path)
    assert ours.alignment == alignment == theirs.alignment
    for key, (value, _, value_type) in VALUES.items():
        expected = value.tolist() if isinstance(value, np.ndarray) else value
        if isinstance(expected, float) and value_type is ValueType.FLOAT32:
            expected = np.float32(expected).item()
        assert ours.metadata[key] == expected
        assert ours.metadata.value_type(key) is value_type
        assert theirs.fields[key].contents() == ours.metadata[key]
        assert int(theirs.fields[key].types[0]) == value_type
    assert list(ours.tensors) == list(TENSORS) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert info.shape == TENSORS[tensor.name][1] == tuple(int(dim) for dim in reversed(tensor.shape))
        assert info.type == int(tensor.tensor_type)
        assert info.offset == tensor.data_offset
        assert ours.data(tensor.name).tobytes() == raws[tensor.name].tobytes() == tensor.data.tobytes()


def test_files_of_the_gguf_package_are_read(tmp_path: Path) -> None:
    path = tmp_path / "theirs.gguf"
    theirs = gguf.GGUFWriter(path, "llama")
    theirs.add_uint32("a.count", 5)
    theirs.add_float64("a.double", 0.1)
    theirs.add_array("a.tokens", ["x", "yy", ""])
    theirs.add_array("a.scores", [0.5, -1.5])
    theirs.add_array("a.types", [1, 2, 3])
    values = np.arange(64, dtype=np.float32).reshape(2, 32)
    theirs.add_tensor("w", values)
    theirs.add_tensor("h", values.astype(np.float16))
    theirs.add_tensor(
        "q", gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0), raw_dtype=gguf.GGMLQuantizationType.Q8_0
    )
    theirs.write_header_to_file()
    theirs.write_kv_data_to_file()
    theirs.write_tensors_to_file()
    theirs.close()
    ours = GGUFFile.open(path)
    assert ours.metadata["general.architecture"] == "llama"
    assert ours.metadata["a.count"] == 5
    assert ours.metadata["a.double"] == 0.1
    assert ours.metadata["a.tokens"] == ["x", "yy", ""]
    assert ours.metadata["a.scores"] == [0.5, -1.5]
    assert ours.metadata["a.types"] == [1, 2, 3]
    np.testing.assert_array_equal(ours.data("w").view(np.float32).reshape(2, 32), values)
    np.testing.assert_array_equal(ours.data("h").view(np.float16).reshape(2, 32), values)
    assert ours.tensors["q"].type is GGMLType.Q8_0
    assert ours.tensors["q"].shape == (2, 32)


def test_split_files_of_the_gguf_package_are_read(tmp_path: Path) -> None:
    theirs = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=2)
    for index in range(5):
        theirs.add_tensor(f"t{index}", np.full(8, index, np.float32))
    theirs.write_header_to_file()
    theirs.write_kv_data_to_file()
    theirs.write_tensors_to_file()
    theirs.close()
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    for path in paths:
        ours = GGUFFile.open(path)
        assert ours.metadata["general.architecture"] == "llama"
        assert {name: ours.data(name).view(np.float32)[0] for name in ours.tensors} == {
            f"t{index}": index for index in range(5)
        }


def test_nested_arrays() -> None:
    kind, raw = encode_value([[1, 2]])
    assert kind is ValueType.ARRAY
    assert raw == GGUFBuilder().kv("k", [[1, 2]], element=ValueType.ARRAY).pairs[0][13:].replace(
        b"\4", b"\5", 1
    )


@pytest.mark.parametrize(
    ("value", "kind", "found"),
    [
        ([], None, "an empty array needs the type of its elements"),
        (-1, ValueType.UINT32, "does not fit UINT32"),
        (2**32, ValueType.UINT32, "does not fit UINT32"),
        (2**64, None, "does not fit UINT64"),
        (0.5, ValueType.UINT32, "a value of type float cannot be written as UINT32"),
        (True, ValueType.UINT32, "a value of type bool cannot be written as UINT32"),
        (1, ValueType.BOOL, "a value of type int cannot be written as BOOL"),
        (1, ValueType.STRING, "a value of type int cannot be written as STRING"),
        (["a", 1], None, "a value of type int cannot be written as STRING"),
        ([[1], 2], None, "a value of type int cannot be written as ARRAY"),
        (1e39, None, "does not fit FLOAT32"),
        ("\ud800", None, "surrogates not allowed"),
        (np.zeros((2, 2)), None, "an array of 2 dimensions"),
        (np.zeros(2, np.complex64), None, "an array of 1 dimensions of complex64"),
        (np.zeros(2, np.int8), ValueType.INT32, "an array of int8 cannot be written as INT32"),
    ],
)
def test_values_that_gguf_cannot_hold(
    tmp_path: Path, value: Writable, kind: ValueType | None, found: str
) -> None:
    with pytest.raises(FormatError, match=r"m\.gguf: metadata key 'k' is not writable") as caught:
        GGUFWriter(tmp_path / "m.gguf").set("k", value, kind)
    assert found in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind", "shape", "found"),
    [
        ("", GGMLType.F32, (4,), "the name of tensor ''"),
        ("n" * 65, GGMLType.F32, (4,), "65 bytes, expected 1 to 64"),
        ("w", GGMLType.F32, (), "the shape of tensor 'w'"),
        ("w", GGMLType.F32, (1, 1, 1, 1, 1), "the shape of tensor 'w'"),
        ("w", GGMLType.F32, (4, 0), "the shape of tensor 'w'"),
        ("w", GGMLType.Q4_0, (32, 33), "the row length of tensor 'w' is 33, expected a multiple of 32"),
        ("twice", GGMLType.F32, (4,), "tensor 'twice' is declared twice"),
    ],
)
def test_tensors_that_gguf_cannot_hold(
    tmp_path: Path, name: str, kind: GGMLType, shape: tuple[int, ...], found: str
) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf")
    writer.add_tensor("twice", GGMLType.F32, (4,))
    with pytest.raises(FormatError) as caught:
        writer.add_tensor(name, kind, shape)
    assert found in str(caught.value)


@pytest.mark.parametrize("alignment", [0, 4, 33, 2**22])
def test_alignment_is_checked(tmp_path: Path, alignment: int) -> None:
    with pytest.raises(FormatError, match=f"the alignment is {alignment}, expected a power of two"):
        GGUFWriter(tmp_path / "m.gguf", alignment)
    with pytest.raises(FormatError, match="the alignment of this file"):
        GGUFWriter(tmp_path / "m.gguf").set("general.alignment", alignment)


def small(path: Path, *, n: int = 3, resume: str | None = None) -> GGUFWriter:
    writer = GGUFWriter(path, resume=resume)
    for index in range(n):
        writer.add_tensor(f"t{index}", GGMLType.I8, (100,))
    return writer


def interrupt(writer: GGUFWriter, name: str) -> None:
    """Write one tensor and be interrupted."""
    with writer:
        writer.write_header()
        assert writer.written == frozenset()
        writer.write_tensor(name, row(int(name[1:])))
        raise KeyboardInterrupt


def row(value: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return np.full(100, value, np.uint8)


def test_an_error_leaves_neither_file_nor_part(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"the old one")
    with pytest.raises(KeyboardInterrupt):
        interrupt(small(tmp_path / "m.gguf"), "t0")
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]
    assert (tmp_path / "m.gguf").read_bytes() == b"the old one"


def test_an_unfinished_file_is_not_whole(tmp_path: Path) -> None:
    with small(tmp_path / "m.gguf") as writer:
        writer.write_header()
        writer.write_tensor("t0", row(0))
        with pytest.raises(ValueError, match="2 declared tensors were not written, the first is t1"):
            writer.finish()
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_checked_and_pieces_joined(tmp_path: Path) -> None:
    with small(tmp_path / "m.gguf") as writer:
        writer.write_header()
        for wrong in (row(0)[:99], np.zeros(101, np.uint8)):
            with pytest.raises(ValueError, match="declared were 100"):
                writer.write_tensor("t0", wrong)
        with pytest.raises(KeyError):
            writer.write_tensor("other", row(0))
        writer.write_tensor("t1", row(1))
        writer.write_tensor("t2", row(2))
        writer.write_tensor("t0", (row(index)[:25] for index in range(4)))
        writer.finish()
    file = GGUFFile.open(tmp_path / "m.gguf")
    assert file.data("t0").tolist() == [0] * 25 + [1] * 25 + [2] * 25 + [3] * 25
    assert file.data("t1").tolist() == [1] * 100


def test_order_of_calls_is_checked(tmp_path: Path) -> None:
    with small(tmp_path / "m.gguf") as writer:
        with pytest.raises(RuntimeError, match="write_header comes before"):
            writer.write_tensor("t0", row(0))
        with pytest.raises(RuntimeError, match="write_header comes before"):
            writer.finish()
        writer.write_header()
        with pytest.raises(RuntimeError, match="nothing can be declared"):
            writer.set("k", 1)


def test_the_output_is_never_an_input(tmp_path: Path) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(b"precious")
    (tmp_path / "link.gguf").symlink_to(model)
    (tmp_path / "copy.gguf.part").hardlink_to(model)
    for name in ("m.gguf", "link.gguf", "copy.gguf"):
        with pytest.raises(FileError, match="is also the input"):
            GGUFWriter(tmp_path / name, inputs=[model])
    assert model.read_bytes() == b"precious"


def test_a_link_in_place_of_the_part_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"precious")
    (tmp_path / "m.gguf.part").symlink_to(tmp_path / "other")
    with pytest.raises(FileError, match="cannot be written"), small(tmp_path / "m.gguf") as writer:
        writer.write_header()
    assert (tmp_path / "other").read_bytes() == b"precious"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a directory"):
        GGUFWriter(tmp_path)
    with pytest.raises(FileError, match="cannot be written"), small(tmp_path / "none" / "m.gguf") as writer:
        writer.write_header()


def test_too_little_room_is_found_before_the_work(tmp_path: Path) -> None:
    if not hasattr(os, "posix_fallocate"):
        pytest.skip("this system cannot reserve disk space")
    writer = GGUFWriter(tmp_path / "m.gguf")
    writer.add_tensor("w", GGMLType.I8, (2**20, 2**20, 2**10))
    with pytest.raises(FileError, match=r"m\.gguf\.part"), writer:
        writer.write_header()
    assert list(tmp_path.iterdir()) == []


def test_two_writers_do_not_share_a_part(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with small(tmp_path / "m.gguf") as first:
        first.write_header()
        with (
            pytest.raises(FileError, match="another process is writing"),
            small(tmp_path / "m.gguf") as second,
        ):
            second.write_header()
        for index in range(3):
            first.write_tensor(f"t{index}", row(index))
        first.finish()
    assert GGUFFile.open(tmp_path / "m.gguf").data("t2").tolist() == [2] * 100


def test_an_interrupted_file_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    with pytest.raises(KeyboardInterrupt):
        interrupt(small(path, resume="work"), "t2")
    assert not path.exists()
    with (tmp_path / "m.gguf.part.state").open("a") as state:
        state.write('"t1')  # a line cut off by a power failure
    with small(path, resume="work") as writer:
        writer.write_header()
        assert writer.written == {"t2"}
        writer.write_tensor("t0", row(0))
        writer.write_tensor("t1", row(1))
        writer.finish()
    assert [file.name for file in tmp_path.iterdir()] == ["m.gguf"]
    file = GGUFFile.open(path)
    assert [file.data(f"t{index}").tolist() for index in range(3)] == [[index] * 100 for index in range(3)]


@pytest.mark.parametrize(("n", "work"), [(4, "work"), (3, "other work")])
def test_another_work_starts_anew(tmp_path: Path, n: int, work: str) -> None:
    path = tmp_path / "m.gguf"
    with pytest.raises(KeyboardInterrupt):
        interrupt(small(path, resume="work"), "t2")
    with small(path, n=n, resume=work) as writer:
        writer.write_header()
        assert writer.written == frozenset()
        for index in range(n):
            writer.write_tensor(f"t{index}", row(9))
        writer.finish()
    assert GGUFFile.open(path).data("t2").tolist() == [9] * 100


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_killed_process_leaves_no_final_name(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    script = textwrap.dedent(f"""
        import os, signal
        import numpy as np
        from edgellm.gguf.types import GGMLType
        from edgellm.gguf.writer import GGUFWriter
        with GGUFWriter({str(path)!r}, resume="work") as writer:
            for index in range(3):
                writer.add_tensor(f"t{{index}}", GGMLType.I8, (100,))
            writer.write_header()
            writer.write_tensor("t0", np.zeros(100, np.uint8))
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    with small(path, resume="work") as writer:
        writer.write_header()
        for index in range(3):
            if f"t{index}" not in writer.written:
                writer.write_tensor(f"t{index}", row(index))
        writer.finish()
    assert GGUFFile.open(path).data("t2").tolist() == [2] * 100
