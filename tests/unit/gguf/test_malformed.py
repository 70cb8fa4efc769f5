"""Malformed files: each is refused quickly with its sentence, and so are mutated files."""

from __future__ import annotations

import os
import random
import re
import struct
import time
from pathlib import Path

import pytest

from edgellm.errors import EdgeLLMError, FileError, FormatError
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import GGMLType, ValueType
from tests.support.gguf_builder import GGUFBuilder, string, u32, u64
from tests.support.malformed_gguf import CASES, Malformed


def read_everything(path: Path) -> None:
    """Open a file and use all of it."""
    with GGUFFile.open(path) as file:
        for key in file.metadata:
            assert file.metadata[key] is not None
        for name, info in file.tensors.items():
            assert int(file.data(name).sum(dtype="u8")) >= 0
            assert file.data(name).size == info.n_bytes
            file.release(name)


def test_there_are_enough_cases_and_each_has_its_name() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({case.data for case in CASES}) == len(CASES)
    assert len(CASES) >= 150


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_malformed_file(case: Malformed, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(case.data)
    start = time.perf_counter()
    if case.on_use:
        GGUFFile.open(path).close()
    with pytest.raises(case.error) as caught:
        read_everything(path)
    elapsed = time.perf_counter() - start
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert case.found in message
    assert re.search(r"expected|looks like|cannot be found", message)
    assert ";" in message or ": " in message.removeprefix(f"{path}: ")
    assert "\n" not in message
    assert message.isprintable()
    assert len(message) < len(str(path)) + 400
    assert elapsed < 1


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.gguf: there is no such file"):
        GGUFFile.open(tmp_path / "none.gguf")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a directory, expected a GGUF file"):
        GGUFFile.open(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(FormatError, match=r"empty\.gguf: the file is empty"):
        GGUFFile.open(tmp_path / "empty.gguf")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(FileError, match="is not a regular file"):
        GGUFFile.open(tmp_path / "pipe.gguf")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "secret.gguf"
    path.write_bytes(b"GGUF")
    path.chmod(0)
    with pytest.raises(FileError, match="cannot be read"):
        GGUFFile.open(path)


def test_a_text_of_absurd_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.gguf"
    path.write_bytes(GGUFBuilder().raw_pair(string("k") + u32(ValueType.STRING) + u64(2**27 + 1)).build())
    os.truncate(path, 2**28)
    with pytest.raises(FormatError, match="the length of metadata key 'k' is 134217729, expected at most"):
        GGUFFile.open(path)


def part(index: int, count: int, total: int, tensor: str, **changed: int) -> GGUFBuilder:
    fields = {"split.no": index, "split.count": count, "split.tensors.count": total}
    fields |= {key.replace("_", "."): value for key, value in changed.items()}
    builder = GGUFBuilder()
    for key, value in fields.items():
        builder.kv(key, value, ValueType.INT32)
    return builder.tensor(tensor, GGMLType.F32, (4,))


def parts(tmp_path: Path, *builders: GGUFBuilder) -> Path:
    for index, builder in enumerate(builders):
        builder.write(tmp_path / f"m-{index + 1:05d}-of-{len(builders):05d}.gguf")
    return tmp_path / f"m-00001-of-{len(builders):05d}.gguf"


def refusal(path: Path) -> str:
    with pytest.raises(FormatError) as caught:
        GGUFFile.open(path)
    return str(caught.value)


def test_parts_in_the_wrong_order(tmp_path: Path) -> None:
    first = parts(tmp_path, part(1, 2, 2, "b"), part(0, 2, 2, "a"))
    assert "'split.no' is 1, expected 0, as the file's name says" in refusal(first)


def test_parts_of_another_split(tmp_path: Path) -> None:
    first = parts(tmp_path, part(0, 2, 2, "a"), part(1, 2, 2, "b", split_count=3))
    assert "m-00002-of-00002.gguf: metadata key 'split.count' is 3, expected 2" in refusal(first)


def test_part_that_is_no_part(tmp_path: Path) -> None:
    first = parts(tmp_path, part(0, 2, 2, "a"), GGUFBuilder().tensor("b", GGMLType.F32, (4,)))
    assert "m-00002-of-00002.gguf: metadata key 'split.count' is missing, expected 2" in refusal(first)


def test_parts_named_but_not_split(tmp_path: Path) -> None:
    first = parts(tmp_path, *(GGUFBuilder().tensor(name, GGMLType.F32, (4,)) for name in "ab"))
    assert "metadata key 'split.count' is missing, expected 2, as the file's name says" in refusal(first)


def test_tensor_in_two_parts(tmp_path: Path) -> None:
    first = parts(tmp_path, part(0, 2, 2, "a"), part(1, 2, 2, "a"))
    assert "m-00002-of-00002.gguf: tensor 'a' is also in an earlier part" in refusal(first)


def test_wrong_total_of_tensors(tmp_path: Path) -> None:
    first = parts(tmp_path, part(0, 2, 3, "a"), part(1, 2, 3, "b"))
    assert "'split.tensors.count' is 3, expected 2, the tensors in all parts" in refusal(first)


def test_malformed_second_part(tmp_path: Path) -> None:
    first = parts(tmp_path, part(0, 2, 2, "a"), part(1, 2, 2, "b"))
    second = tmp_path / "m-00002-of-00002.gguf"
    second.write_bytes(second.read_bytes()[:-1])
    assert "m-00002-of-00002.gguf: the end of tensor 'b'" in refusal(first)


def rich_file() -> tuple[bytes, int]:
    """A valid file with a field of every kind, and where its header ends."""
    builder = GGUFBuilder().kv("general.architecture", "llama").kv("general.alignment", 32)
    for kind in ValueType:
        if kind not in (ValueType.STRING, ValueType.ARRAY):
            builder.kv(f"scalar.{kind.name}", 1, kind)
            builder.kv(f"array.{kind.name}", [1, 0, 1], ValueType.ARRAY, kind)
    builder.kv("tokens", ["<s>", "", "日本", "a" * 300, *(f"t{i}" for i in range(40))])
    builder.kv("nested", [[1, 2], [3]])
    for index, tensor_type in enumerate(GGMLType):
        builder.tensor(f"t.{index}", tensor_type, (2, 256))
    return builder.build(), len(builder.header())


INTERESTING = (0, 1, 7, 8, 0x7F, 0x80, 0xFF, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1)


def mutate(whole: bytes, header_bytes: int, rng: random.Random) -> bytes:
    """Change one to three places of the header: flip, overwrite with a telling number, cut, repeat, drop."""
    data = bytearray(whole)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(min(header_bytes, len(data)))
        action = rng.randrange(6)
        if action == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            data[at : at + 8] = struct.pack("<Q", rng.choice(INTERESTING))
        elif action == 2:
            data[at : at + 4] = struct.pack("<I", rng.choice(INTERESTING) & 0xFFFFFFFF)
        elif action == 3:
            del data[at + 1 :]
        elif action == 4:
            size = rng.randrange(1, 64)
            data[at:at] = data[at : at + size]
        else:
            del data[at : at + rng.randrange(1, 64)]
        if not data:
            return b"G"
    return bytes(data)


def replace(path: Path, data: bytes) -> None:
    """Write a file anew: overwriting in place waits for the disk on some file systems."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def test_mutants_are_read_or_refused(tmp_path: Path) -> None:
    """4,000 mutants: each opens and can be used, or is refused with an error of ours; both happen."""
    whole, header_bytes = rich_file()
    rng = random.Random(20240229)
    path = tmp_path / "mutant.gguf"
    n_read = 0
    messages: list[str] = []
    for _ in range(4000):
        replace(path, mutate(whole, header_bytes, rng))
        start = time.perf_counter()
        try:
            read_everything(path)
            n_read += 1
        except EdgeLLMError as error:
            messages.append(str(error))
        assert time.perf_counter() - start < 1
    assert all(message.startswith(f"{path}: ") for message in messages)
    assert n_read > 100
    assert len(messages) > 1000


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole, header_bytes = rich_file()
    path = tmp_path / "cut.gguf"
    for size in [*range(1, header_bytes, 5), *range(header_bytes, len(whole), 97), len(whole) - 1]:
        replace(path, whole[:size])
        with pytest.raises(FormatError):
            GGUFFile.open(path)
