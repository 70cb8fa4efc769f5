"""Hand-made malformed GGUF files: the bytes of each, and a part of the sentence it must be refused with."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from edgellm.errors import EdgeLLMError, FormatError, UnsupportedError
from edgellm.gguf.types import GGMLType, ValueType
from tests.support.gguf_builder import GGUFBuilder, string, tensor_info, u32, u64

F32 = GGMLType.F32
MAX = 2**64 - 1


class Malformed(NamedTuple):
    """One case: `found` must be in the message; `on_use`: refused when the value is asked for."""

    name: str
    data: bytes
    found: str
    error: type[EdgeLLMError] = FormatError
    on_use: bool = False


def good() -> GGUFBuilder:
    """A small valid file, to be broken in one place."""
    builder = GGUFBuilder().kv("general.architecture", "llama").kv("llama.block_count", 2)
    return builder.tensor("a", F32, (2, 8)).tensor("b", GGMLType.Q8_0, (2, 32))


def header(n_tensors: int = 0, n_pairs: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + u32(version) + u64(n_tensors) + u64(n_pairs)


# A key whose text must be UTF-8.
TEXT_KEY = b"tokenizer.k"


def pair(value: bytes, kind: int, key: bytes = b"k") -> bytes:
    return header(n_pairs=1) + string(key) + u32(kind) + value


def array(element: int, count: int, items: bytes = b"", key: bytes = b"k") -> bytes:
    return pair(u32(element) + u64(count) + items, ValueType.ARRAY, key)


def tensors(*infos: bytes, data: int = 64) -> bytes:
    """A file of tensor infos and `data` zero bytes of tensor data."""
    head = header(n_tensors=len(infos)) + b"".join(infos)
    return head + bytes(-len(head) % 32 + data)


def one_tensor(dims: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0, data: int = 64) -> bytes:
    return tensors(tensor_info("w", dims, kind, offset), data=data)


def whole_file() -> Iterator[Malformed]:
    yield Malformed("not gguf", b"hello world, this is text" * 3, "magic number is b'hell', expected b'GGUF'")
    yield Malformed("one byte", b"G", "magic number is b'G'")
    yield Malformed("half the magic", b"GG", "magic number is b'GG'")
    yield Malformed("zeros", bytes(4096), "magic number is")
    yield Malformed("lower-case magic", b"gguf" + bytes(60), "magic number is b'gguf'")
    yield Malformed("zip", b"PK\x03\x04" + bytes(60), "zip archive")
    yield Malformed("old ggml", b"lmgg" + bytes(60), "old GGML file")
    yield Malformed("old ggjt", b"tjgg" + bytes(60), "old GGJT file")
    yield Malformed("old ggmf", b"fmgg" + bytes(60), "old GGMF file")
    yield Malformed("reversed magic", b"FUGG" + bytes(60), "big-endian GGUF")
    yield Malformed("html", b"<!DOCTYPE html><html></html>", "HTML page")
    yield Malformed("html without doctype", b"<html><body>404</body></html>", "HTML page")
    lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    yield Malformed("git lfs pointer", lfs, "Git LFS pointer")


def versions() -> Iterator[Malformed]:
    for version, found in (
        (0, "version is 0"),
        (1, "version is 1"),
        (4, "version is 4"),
        (99, "version is 99"),
        (2**32 - 1, "version is 4294967295"),
        (0x02000000, "big-endian"),
        (0x03000000, "big-endian"),
    ):
        yield Malformed(f"version {version:#x}", header(version=version) + bytes(32), found, UnsupportedError)


def counts() -> Iterator[Malformed]:
    for count in (1000, 2**31, 2**32, 2**60, 2**61 + 1, 2**63, MAX):
        yield Malformed(
            f"tensor count {count:#x}", header(n_tensors=count) + bytes(64), f"tensor count is {count}"
        )
        yield Malformed(
            f"metadata count {count:#x}", header(n_pairs=count) + bytes(64), f"metadata count is {count}"
        )
    room = bytes(65537 * 37)
    yield Malformed("too many tensors", header(n_tensors=65537) + room, "is 65537, expected at most 65536")
    yield Malformed("too many pairs", header(n_pairs=65537) + room, "is 65537, expected at most 65536")
    for n_tensors, found in ((3, "tensor 2"), (5, "tensor 2")):
        builder = good()
        builder.n_tensors = n_tensors
        yield Malformed(f"{n_tensors} tensors of 2", builder.build(), found)
    builder = good()
    builder.n_pairs = 3
    yield Malformed("one pair too many", builder.build(), "the length of the name of tensor 0 is")
    builder = good()
    builder.n_pairs = 1
    yield Malformed("one pair too few", builder.build(), "the size of tensor 'llama.block_count' is")
    builder = good()
    builder.n_pairs = 0
    yield Malformed("no pairs counted", builder.build(), "the number of dimensions of tensor")


def truncated() -> Iterator[Malformed]:
    """The valid file cut inside each of its fields."""
    whole = good().build()
    at = {
        "version": 6,
        "tensor count": 12,
        "metadata count": 20,
        "key length": 28,
        "key": 40,
        "value type": 54,
        "string length": 60,
        "string": 69,
        "second key": 85,
        "last value": 105,
    }
    for name, size in at.items():
        yield Malformed(f"cut in {name}", whole[:size], "expected at most")
    infos = whole.index(string("a") + u32(2))
    for name, size in {
        "tensor name length": 4,
        "tensor name": 8,
        "dimension count": 11,
        "first dimension": 17,
        "second dimension": 25,
        "tensor type": 31,
        "tensor offset": 35,
    }.items():
        yield Malformed(f"cut in {name}", whole[: infos + size], "expected at most")
    yield Malformed("cut before the data", whole[: whole.index(string("b")) + 41], "the end of tensor 'a'")
    yield Malformed("cut one byte short", whole[:-1], "the end of tensor 'b' is byte")
    yield Malformed("cut in the first tensor", whole[: -len(whole) % 7 - 140], "the end of tensor 'a'")


def keys() -> Iterator[Malformed]:
    value = u32(ValueType.UINT8) + b"\1"

    def file(key: bytes) -> bytes:
        return header(n_pairs=1) + key + value + bytes(8)

    yield Malformed("empty key", file(u64(0)), "the length of the name of metadata key 0 is 0")
    yield Malformed("key of 64 KiB", file(string(b"k" * 65536)), "is 65536, expected 1 to 65535")
    for length in (100, 2**31, 2**32, 2**63, MAX, MAX - 7, MAX - 8):
        found = "the name of metadata key 0 is"
        yield Malformed(f"key length {length:#x}", file(string(b"k", length)), found)
    yield Malformed("key not utf-8", file(string(b"k\xff")), "expected valid UTF-8")
    yield Malformed("key overlong utf-8", file(string(b"\xc0\x80")), "expected valid UTF-8")
    yield Malformed("key with a surrogate", file(string(b"\xed\xa0\x80")), "expected valid UTF-8")
    twice = good().kv("general.architecture", "gemma3").build()
    yield Malformed("duplicate key", twice, "metadata key 'general.architecture' is there twice")
    same = GGUFBuilder().kv("k", 1).kv("k", 1).build()
    yield Malformed("duplicate key of equal value", same, "metadata key 'k' is there twice")
    long_key = GGUFBuilder().kv("x" * 5000, 1).kv("x" * 5000, 1).build()
    yield Malformed("duplicate long key", long_key, "(5000 characters) is there twice")
    escape = GGUFBuilder().kv("\x1b[31m", 1).kv("\x1b[31m", 1).build()
    yield Malformed("duplicate key with escape codes", escape, r"metadata key '\x1b[31m' is there twice")


def values() -> Iterator[Malformed]:
    for kind in (13, 14, 255, 256, 2**16, 2**31, 2**32 - 1):
        yield Malformed(f"value type {kind}", pair(bytes(16), kind), f"'k' is {kind}, expected 0 to 12")
    sizes = {kind: struct.calcsize(form) for kind, form in _SIZES.items()}
    for kind, size in sizes.items():
        yield Malformed(
            f"{kind.name} cut", pair(bytes(size - 1), kind), f"metadata key 'k' is {size} bytes long"
        )
    for byte in (2, 0x80, 0xFF):
        yield Malformed(f"bool {byte}", pair(bytes([byte]), ValueType.BOOL), f"is {byte}, expected 0 or 1")
    for length in (5, 2**31, 2**32, 2**63, MAX, MAX - 7, MAX - 15, MAX - 40):
        raw = pair(string(b"abcd", length), ValueType.STRING)
        yield Malformed(f"string length {length:#x}", raw, f"metadata key 'k' is {length} bytes long")
    yield Malformed(
        "string not utf-8", pair(string(b"\xfe\xff"), ValueType.STRING, TEXT_KEY), "expected valid UTF-8"
    )
    yield Malformed(
        "string cut utf-8", pair(string(b"\xe6\x97"), ValueType.STRING, TEXT_KEY), "expected valid UTF-8"
    )


_SIZES = {
    ValueType.UINT8: "<B",
    ValueType.INT8: "<b",
    ValueType.UINT16: "<H",
    ValueType.INT16: "<h",
    ValueType.UINT32: "<I",
    ValueType.INT32: "<i",
    ValueType.FLOAT32: "<f",
    ValueType.BOOL: "<B",
    ValueType.UINT64: "<Q",
    ValueType.INT64: "<q",
    ValueType.FLOAT64: "<d",
}


def arrays() -> Iterator[Malformed]:
    for kind in (13, 77, 2**32 - 1):
        yield Malformed(f"array of type {kind}", array(kind, 1, bytes(16)), f"is {kind}, expected 0 to 12")
    for kind, form in _SIZES.items():
        size = struct.calcsize(form)
        yield Malformed(
            f"array of {kind.name} one short", array(kind, 4, bytes(4 * size - 1)), "is 4 elements, expected"
        )
    for count in (2**31, 2**61, 2**62, 2**63, MAX):
        yield Malformed(
            f"array of {count:#x} numbers", array(ValueType.UINT64, count, bytes(64)), f"is {count} elements"
        )
        yield Malformed(
            f"array of {count:#x} strings", array(ValueType.STRING, count, bytes(64)), f"is {count} elements"
        )
    count = 2**22 + 1
    yield Malformed("too long an array", array(ValueType.UINT8, count, bytes(count)), "at most 4194304;")
    yield Malformed("array without a length", pair(u32(0) + bytes(4), ValueType.ARRAY), "8 bytes long")
    yield Malformed("array without a type", pair(bytes(2), ValueType.ARRAY), "4 bytes long")
    for length in (100, 2**32, 2**63, MAX, MAX - 7, MAX - 8, MAX - 32):
        items = string(b"ab") + string(b"cd", length)
        found = "the length of string 1 of metadata key 'k' is past the end"
        yield Malformed(f"second string of {length:#x}", array(ValueType.STRING, 2, items), found)
    back = string(b"abcdefgh", MAX - 15)
    yield Malformed("string that leads back", array(ValueType.STRING, 2, back + string(b"a")), "string 0 of")
    items = b"".join(string(f"token{i}") for i in range(300))
    cut = array(ValueType.STRING, 300, items[:-3])
    yield Malformed("last string cut", cut, "the length of string 299 of metadata key 'k'")
    fewer = array(ValueType.STRING, 301, items)
    yield Malformed("a string too few", fewer, "metadata key 'k' is cut off after 300 strings")
    longer = array(ValueType.STRING, 2, string(b"x" * 300) + string(b"y" * 300, 301))
    yield Malformed("long string past the end", longer, "the length of string 1 of")
    invalid = array(ValueType.STRING, 3, string(b"a") + string(b"\xff") + string(b"c"), TEXT_KEY)
    found = r"string 1 of metadata key 'tokenizer.k' is b'\xff', expected valid UTF-8"
    yield Malformed("array string not utf-8", invalid, found, on_use=True)
    across = array(ValueType.STRING, 2, string(b"a\xc3") + string(b"\xa9b"), TEXT_KEY)
    yield Malformed("character across strings", across, "string 0 of metadata key 'tokenizer.k'", on_use=True)
    bools = array(ValueType.BOOL, 3, b"\1\0\2")
    yield Malformed(
        "array bool of 2", bools, "element 2 of metadata key 'k' is 2, expected 0 or 1", on_use=True
    )


def nested() -> Iterator[Malformed]:
    def wrap(depth: int, inner: bytes) -> bytes:
        return (u32(ValueType.ARRAY) + u64(1)) * depth + inner

    leaf = u32(ValueType.UINT8) + u64(1) + b"\1"
    for depth in (4, 5, 100, 5000):
        raw = pair(wrap(depth, leaf), ValueType.ARRAY)
        yield Malformed(f"nested {depth + 1} deep", raw, "expected at most 4")
    inner = pair(wrap(1, u32(ValueType.UINT32) + u64(2**62) + bytes(8)), ValueType.ARRAY)
    yield Malformed("huge inner array", inner, f"is {2**62} elements")
    outer = pair(u32(ValueType.ARRAY) + u64(2**60) + leaf, ValueType.ARRAY)
    yield Malformed("huge outer array", outer, f"is {2**60} elements")
    half = u32(ValueType.UINT8) + u64(2**15) + bytes(2**15)
    large = pair(u32(ValueType.ARRAY) + u64(2) + half + half, ValueType.ARRAY)
    yield Malformed("too many nested elements", large, "is too large, expected at most 65536 in all")
    kind = pair(wrap(1, u32(99) + u64(1) + b"\1"), ValueType.ARRAY)
    yield Malformed("bad inner type", kind, "is 99, expected 0 to 12")
    flag = pair(wrap(1, u32(ValueType.BOOL) + u64(1) + b"\7"), ValueType.ARRAY)
    yield Malformed("bad inner bool", flag, "is 7, expected 0 or 1")
    text = pair(wrap(1, u32(ValueType.STRING) + u64(1) + string(b"a", MAX)), ValueType.ARRAY)
    yield Malformed("huge inner string", text, f"is {MAX} bytes long")


def alignments() -> Iterator[Malformed]:
    for value in (0, 1, 3, 4, 7, 12, 31, 33, 100, 2**22, 2**31, 2**32 - 1):
        raw = GGUFBuilder().kv("general.alignment", value).tensor("a", F32, (4,)).build()
        yield Malformed(
            f"alignment {value}", raw, f"'general.alignment' is {value}, expected a multiple of 8"
        )
    typed: tuple[tuple[ValueType, object], ...] = (
        (ValueType.UINT64, 32),
        (ValueType.INT32, 32),
        (ValueType.UINT8, 32),
        (ValueType.FLOAT32, 32.0),
        (ValueType.STRING, "32"),
        (ValueType.BOOL, True),
        (ValueType.ARRAY, [32]),
    )
    for kind, other in typed:
        raw = GGUFBuilder().kv("general.alignment", other, kind).tensor("a", F32, (4,)).build()
        yield Malformed(f"alignment as {kind.name}", raw, f"is {kind.name}, expected UINT32")


def tensor_names() -> Iterator[Malformed]:
    def file(name: bytes) -> bytes:
        return tensors(name + u32(1) + u64(4) + u32(0) + u64(0))

    yield Malformed("empty tensor name", file(u64(0)), "is 0, expected 1 to 64 bytes")
    yield Malformed("tensor name of 65 bytes", file(string(b"n" * 65)), "is 65, expected 1 to 64 bytes")
    for length in (2**20, 2**32, 2**63, MAX, MAX - 7):
        yield Malformed(
            f"tensor name length {length:#x}", file(string(b"w", length)), f"is {length}, expected"
        )
    yield Malformed("tensor name not utf-8", file(string(b"\x80w")), "the name of tensor 0 is")
    same = tensors(tensor_info("w", (4,), 0, 0), tensor_info("w", (4,), 0, 32))
    yield Malformed("duplicate tensor", same, "tensor 'w' is there twice")


def dimensions() -> Iterator[Malformed]:
    yield Malformed("no dimensions", one_tensor(()), "number of dimensions of tensor 'w' is 0")
    for n in (5, 6, 100):
        yield Malformed(f"{n} dimensions", one_tensor((1,) * n), f"tensor 'w' is {n}, expected 1 to 4")
    count = tensors(string("w") + u32(2**32 - 1) + u64(4) + u32(0) + u64(0))
    yield Malformed("2^32 - 1 dimensions", count, "is 4294967295, expected 1 to 4")
    for i in range(4):
        dims = tuple(0 if j == i else 4 for j in range(4))
        yield Malformed(f"dimension {i} of zero", one_tensor(dims), f"dimension {i} of tensor 'w' is 0")
    for dims in (
        (2**32, 2**32),
        (2**32, 2**32, 2**32, 2**32),
        (2**63, 2),
        (2**62, 4),
        (MAX,),
        (2**61,),
        (2**62 + 4,),
        (4, 2**62),
        (2**16, 2**16, 2**16, 2**16),
        (2**31, 2**31, 4),
    ):
        found = "the size of tensor 'w' is"
        yield Malformed(f"dimensions {'x'.join(f'{d:#x}' for d in dims)}", one_tensor(dims), found)
    yield Malformed("more rows than data", one_tensor((4, 100)), "bytes (dimensions [4, 100], F32)")
    for kind, row in (
        (GGMLType.Q4_0, 16),
        (GGMLType.Q8_0, 33),
        (GGMLType.Q4_K, 32),
        (GGMLType.Q6_K, 255),
        (GGMLType.IQ2_XXS, 128),
        (GGMLType.MXFP4, 1),
        (GGMLType.TQ1_0, 257),
    ):
        raw = one_tensor((row, 4), kind, data=4096)
        yield Malformed(
            f"{kind.name} row of {row}", raw, f"the row length of tensor 'w' is {row}, expected a"
        )
    whole = one_tensor((MAX - 31,), GGMLType.Q8_0)
    yield Malformed("blocks whose bytes wrap", whole, "the size of tensor 'w'")


def tensor_types() -> Iterator[Malformed]:
    for number, name in {
        4: "Q4_2",
        5: "Q4_3",
        31: "Q4_0_4_4",
        32: "Q4_0_4_8",
        33: "Q4_0_8_8",
        36: "IQ4_NL_4_4",
        37: "IQ4_NL_4_8",
        38: "IQ4_NL_8_8",
    }.items():
        raw = one_tensor((32,), number, data=256)
        yield Malformed(
            f"removed type {number}", raw, f"is {number} ({name}), which was removed", UnsupportedError
        )
    for number in (41, 42, 99, 255, 2**31, 2**32 - 1):
        raw = one_tensor((32,), number, data=256)
        yield Malformed(f"unknown type {number}", raw, f"is {number}, which is unknown", UnsupportedError)


def offsets() -> Iterator[Malformed]:
    for offset in (1, 4, 16, 31, 33):
        yield Malformed(
            f"offset {offset}", one_tensor(offset=offset), "expected a multiple of the alignment 32"
        )
    for offset in (64, 2**20, 2**32, 2**63, MAX - 31, MAX - 63):
        yield Malformed(f"offset {offset:#x}", one_tensor(offset=offset), "the end of tensor 'w' is byte")
    yield Malformed("no data at all", one_tensor(data=0), "the end of tensor 'w' is byte")
    yield Malformed("data one byte short", one_tensor((16,), data=63), "the end of tensor 'w' is byte")

    def two(first: int, second: int, dims: tuple[int, ...] = (16,)) -> bytes:
        return tensors(tensor_info("a", dims, 0, first), tensor_info("b", dims, 0, second), data=256)

    yield Malformed("same offset", two(0, 0), "the offset of tensor 'b' is inside tensor 'a'")
    yield Malformed("overlap by half", two(0, 32), "the offset of tensor 'b' is inside tensor 'a'")
    yield Malformed("overlap, order swapped", two(32, 0), "the offset of tensor 'a' is inside tensor 'b'")
    inside = tensors(tensor_info("a", (64,), 0, 0), tensor_info("b", (1,), 0, 128), data=256)
    yield Malformed("one inside the other", inside, "the offset of tensor 'b' is inside tensor 'a'")
    aligned = GGUFBuilder(alignment=64).kv("general.alignment", 64)
    raw = aligned.tensor("a", F32, (4,)).tensor("b", F32, (4,), offset=32).build()
    yield Malformed("offset below the alignment", raw, "is 32, expected a multiple of the alignment 64")


def splits() -> Iterator[Malformed]:
    """Split metadata in a file whose name is not that of a part; parts are tested with real files."""
    for kind, value in ((ValueType.STRING, "3"), (ValueType.FLOAT32, 3.0), (ValueType.BOOL, True)):
        raw = GGUFBuilder().kv("split.count", value, kind).build()
        yield Malformed(f"split.count as {kind.name}", raw, "'split.count' is not a whole number")
    for count in (1025, 65535):
        raw = GGUFBuilder().kv("split.count", count, ValueType.UINT16).build()
        yield Malformed(f"split.count {count}", raw, f"'split.count' is {count}, expected 1 to 1024")
    raw = GGUFBuilder().kv("split.count", -1, ValueType.INT32).build()
    yield Malformed("split.count -1", raw, "'split.count' is -1, expected 1 to 1024")
    raw = GGUFBuilder().kv("split.count", 3, ValueType.UINT16).build()
    yield Malformed("a renamed part", raw, "one of 3 parts but its name does not end in")


CASES: tuple[Malformed, ...] = tuple(
    case
    for group in (
        whole_file,
        versions,
        counts,
        truncated,
        keys,
        values,
        arrays,
        nested,
        alignments,
        tensor_names,
        dimensions,
        tensor_types,
        offsets,
        splits,
    )
    for case in group()
)
