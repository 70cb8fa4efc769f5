"""Parsing of a GGUF header: metadata and tensor infos, every field checked against the file's size.

Source: the GGUF specification (ggml repository, docs/gguf.md), versions 2 and 3, little-endian.
"""

from __future__ import annotations

from math import prod
from mmap import mmap
from typing import NamedTuple

from edgellm.errors import FormatError, UnsupportedError, show
from edgellm.gguf.metadata import (
    FETCH_AGAIN,
    SCALARS,
    ArrayRef,
    HeaderCutError,
    Metadata,
    Value,
    end_of_strings,
    is_needed,
    refuse,
)
from edgellm.gguf.types import LAYOUTS, GGMLType, ValueType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MIN_ALIGNMENT = 8
MAX_ALIGNMENT = 1 << 21
MAX_KEY_BYTES = 65535
MAX_NAME_BYTES = 64
MAX_DIMS = 4
MAX_ARRAY_DEPTH = 4
# Far above any model's needs (a vocabulary has 262,144 tokens), so that a hostile file cannot take many
# times its own size in memory.
MAX_ARRAY_ELEMENTS = 1 << 22
MAX_NESTED_ELEMENTS = 1 << 16
MAX_STRING_BYTES = 1 << 27
MAX_ENTRIES = 1 << 16

REMOVED_TYPES: dict[int, str] = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}

# The smallest possible entry: key length, one character, type, one byte; name length, one character,
# n_dims, one dimension, type, offset.
_MIN_PAIR_BYTES = 8 + 1 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8

_OTHER_FORMATS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer: fetch the real file (git lfs pull)"),
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint: convert a safetensors checkpoint instead"),
    (b"lmgg", "an old GGML file: convert the original checkpoint to GGUF"),
    (b"tjgg", "an old GGJT file: convert the original checkpoint to GGUF"),
    (b"fmgg", "an old GGMF file: convert the original checkpoint to GGUF"),
    (b"FUGG", "a big-endian GGUF: fetch or convert a little-endian one"),
    (b"<!DOC", "an HTML page: the download got a web page instead of the model"),
    (b"<html", "an HTML page: the download got a web page instead of the model"),
)

_U32 = SCALARS[ValueType.UINT32]
_U64 = SCALARS[ValueType.UINT64]


class RawTensor(NamedTuple):
    """One tensor info: `shape` in NumPy order, `offset` in bytes from the file's start."""

    name: str
    type: GGMLType
    shape: tuple[int, ...]
    n_bytes: int
    offset: int


class Header(NamedTuple):
    """Contents of one file before the tensor data."""

    version: int
    alignment: int
    metadata: Metadata
    tensors: list[RawTensor]


class _Cursor:
    """A position in the file that only moves over bytes that are there.

    size: bytes of the whole file, of which `file` may be the beginning.
    """

    def __init__(self, path: str, file: mmap | bytes, size: int) -> None:
        self.path = path
        self.file = file
        self.data = memoryview(file)
        self.end = size
        self.position = 0
        self.nested_left = MAX_NESTED_ELEMENTS
        self.warnings: list[str] = []

    def need(self, n_bytes: int, field: str) -> int:
        """Move over `n_bytes` bytes; returns where they start."""
        start = self.position
        if n_bytes > self.end - start:
            refuse(
                self.path,
                field,
                f"{n_bytes} bytes long at byte {start}",
                f"at most the {self.end - start} bytes left",
            )
        self.position = start + n_bytes
        if self.position > len(self.data):
            raise HeaderCutError(self.position)
        return start

    def u32(self, field: str) -> int:
        value: int = _U32.unpack_from(self.file, self.need(4, field))[0]
        return value

    def u64(self, field: str) -> int:
        value: int = _U64.unpack_from(self.file, self.need(8, field))[0]
        return value

    def text(self, field: str, limit: int | None = None, *, lenient: bool = False) -> str:
        """A length-prefixed UTF-8 string; one with a `limit` is a name: not empty, at most `limit` bytes.

        lenient: bytes that are not UTF-8 become U+FFFD.
        """
        length = self.u64(f"the length of {field}")
        if limit is not None and not 0 < length <= limit:
            refuse(self.path, f"the length of {field}", f"{length}", f"1 to {limit} bytes")
        start = self.need(length, field)
        if length > MAX_STRING_BYTES:
            refuse(self.path, f"the length of {field}", f"{length}", f"at most {MAX_STRING_BYTES} bytes")
        raw = self.file[start : self.position]
        try:
            return raw.decode()
        except UnicodeDecodeError:
            if lenient:
                self.warnings.append(f"{field} holds bytes that are not UTF-8, which nothing needs")
                return raw.decode("utf-8", "replace")
            refuse(self.path, field, f"{raw[:32]!r}", "valid UTF-8")

    def value_type(self, field: str) -> ValueType:
        number = self.u32(f"the type of {field}")
        if number > ValueType.FLOAT64:
            refuse(self.path, f"the type of {field}", f"{number}", "0 to 12")
        return ValueType(number)

    def value(self, key: str, kind: ValueType) -> Value | ArrayRef:
        field = f"metadata key {show(key)}"
        if kind is ValueType.STRING:
            return self.text(field, lenient=not is_needed(key))
        if kind is ValueType.ARRAY:
            return self.array(field)
        return self.scalar(field, kind)

    def scalar(self, field: str, kind: ValueType) -> int | float | bool:
        form = SCALARS[kind]
        value: int | float = form.unpack_from(self.file, self.need(form.size, field))[0]
        if kind is not ValueType.BOOL:
            return value
        if value > 1:
            refuse(self.path, field, f"{value}", "0 or 1, as it is a bool")
        return bool(value)

    def array(self, field: str) -> Value | ArrayRef:
        element = self.value_type(f"the elements of {field}")
        if element is ValueType.ARRAY:
            return self.nested(field, 1)
        count = self.u64(f"the length of {field}")
        start = self.position
        if element is ValueType.STRING:
            self.fits(count, 8, field)
            self.position = end_of_strings(self.path, field, self.data, start, count, self.end)
            return ArrayRef(element, count, start)
        size = SCALARS[element].size
        self.fits(count, size, field)
        self.position += count * size
        return ArrayRef(element, count, start)

    def fits(self, count: int, size: int, field: str) -> None:
        """Check that `count` elements of at least `size` bytes can be in the rest of the file."""
        if count * size > self.end - self.position:
            refuse(
                self.path,
                f"the length of {field}",
                f"{count} elements",
                f"at most {(self.end - self.position) // size} in the {self.end - self.position} bytes left",
            )
        if count > MAX_ARRAY_ELEMENTS:
            refuse(self.path, f"the length of {field}", f"{count} elements", f"at most {MAX_ARRAY_ELEMENTS}")

    def spend(self, count: int, field: str) -> None:
        """Count elements of nested arrays, which are decoded at once, against what a file may have."""
        self.nested_left -= count
        if self.nested_left < 0:
            refuse(self.path, f"the size of {field}", "too large", f"at most {MAX_NESTED_ELEMENTS} in all")

    def nested(self, field: str, depth: int) -> list[Value]:
        """An array whose elements are arrays, its element type already read."""
        if depth >= MAX_ARRAY_DEPTH:
            refuse(self.path, f"the nesting of {field}", f"over {depth} deep", f"at most {MAX_ARRAY_DEPTH}")
        count = self.u64(f"the length of {field}")
        self.fits(count, 12, field)
        self.spend(count, field)
        result: list[Value] = []
        for _ in range(count):
            element = self.value_type(f"the elements of {field}")
            if element is ValueType.ARRAY:
                result.append(self.nested(field, depth + 1))
                continue
            inner = self.u64(f"the length of {field}")
            self.fits(inner, 8 if element is ValueType.STRING else SCALARS[element].size, field)
            self.spend(inner, field)
            if element is ValueType.STRING:
                result.append([self.text(field) for _ in range(inner)])
            else:
                result.append([self.scalar(field, element) for _ in range(inner)])
        return result


def parse_header(path: str, file: mmap | bytes, size: int | None = None) -> Header:
    """Parse and check the header of one mapped GGUF file of at least one byte.

    size: bytes of the whole file, if `file` is only its beginning. Raises FormatError where a field is out of
    bounds or contradicts another, UnsupportedError for a version or a tensor type that edgellm does not read,
    HeaderCutError if the beginning ends before the header does.
    """
    cursor = _Cursor(path, file, len(file) if size is None else size)
    _check_magic(path, bytes(file[:32]))
    cursor.need(4, "the magic number")
    version = cursor.u32("the version")
    _check_version(path, version)
    n_tensors = cursor.u64("the tensor count")
    n_pairs = cursor.u64("the metadata count")
    for field, count, size in (
        ("the tensor count", n_tensors, _MIN_TENSOR_BYTES),
        ("the metadata count", n_pairs, _MIN_PAIR_BYTES),
    ):
        most = min(cursor.end // size, MAX_ENTRIES)
        if count > most:
            refuse(path, field, f"{count}", f"at most {most} in a file of {cursor.end} bytes")
    metadata = _read_metadata(cursor, n_pairs)
    alignment = _alignment(path, metadata)
    tensors = _read_tensors(cursor, n_tensors, alignment)
    return Header(version, alignment, metadata, tensors)


def _check_magic(path: str, head: bytes) -> None:
    if head.startswith(MAGIC):
        return
    for prefix, what in _OTHER_FORMATS:
        if head.startswith(prefix):
            raise FormatError(f"{path}: the file is not GGUF, it looks like {what}")
    refuse(path, "the magic number", f"{head[:4]!r}", f"{MAGIC!r}", "give the path of a GGUF model file")


def _check_version(path: str, version: int) -> None:
    if version in VERSIONS:
        return
    if version & 0xFFFF == 0 and version >> 24:
        raise UnsupportedError(
            f"{path}: the file is big-endian GGUF (version field {version:#010x}), expected little-endian; "
            "fetch or convert a little-endian file"
        )
    if version == 1:
        raise UnsupportedError(
            f"{path}: the GGUF version is 1, expected 2 or 3; convert the original checkpoint again"
        )
    raise UnsupportedError(
        f"{path}: the GGUF version is {version}, expected 2 or 3; "
        "the file is damaged or newer than this edgellm: fetch it again or update edgellm"
    )


def _read_metadata(cursor: _Cursor, n_pairs: int) -> Metadata:
    values: dict[str, Value | ArrayRef] = {}
    types: dict[str, ValueType] = {}
    for index in range(n_pairs):
        key = cursor.text(f"the name of metadata key {index}", MAX_KEY_BYTES)
        if key in values:
            refuse(cursor.path, f"metadata key {show(key)}", "there twice", "once")
        types[key] = kind = cursor.value_type(f"metadata key {show(key)}")
        values[key] = cursor.value(key, kind)
    return Metadata(cursor.path, cursor.data, values, types, cursor.warnings)


def _alignment(path: str, metadata: Metadata) -> int:
    key = "general.alignment"
    if key not in metadata:
        return DEFAULT_ALIGNMENT
    kind = metadata.value_type(key)
    if kind is not ValueType.UINT32:
        refuse(path, f"the type of metadata key '{key}'", kind.name, "UINT32")
    alignment = metadata[key]
    assert isinstance(alignment, int)
    if not MIN_ALIGNMENT <= alignment <= MAX_ALIGNMENT or alignment % MIN_ALIGNMENT:
        refuse(
            path,
            f"metadata key '{key}'",
            f"{alignment}",
            f"a multiple of {MIN_ALIGNMENT} up to {MAX_ALIGNMENT}",
        )
    return alignment


def _read_tensors(cursor: _Cursor, n_tensors: int, alignment: int) -> list[RawTensor]:
    tensors: list[RawTensor] = []
    names: set[str] = set()
    for index in range(n_tensors):
        name = cursor.text(f"the name of tensor {index}", MAX_NAME_BYTES)
        if name in names:
            refuse(cursor.path, f"tensor {show(name)}", "there twice", "once")
        names.add(name)
        tensors.append(_read_tensor(cursor, name, alignment))
    data_start = -(-cursor.position // alignment) * alignment
    tensors = [tensor._replace(offset=tensor.offset + data_start) for tensor in tensors]
    _check_extents(cursor, tensors)
    return tensors


def _read_tensor(cursor: _Cursor, name: str, alignment: int) -> RawTensor:
    field = f"tensor {show(name)}"
    n_dims = cursor.u32(f"the number of dimensions of {field}")
    if not 1 <= n_dims <= MAX_DIMS:
        refuse(cursor.path, f"the number of dimensions of {field}", f"{n_dims}", f"1 to {MAX_DIMS}")
    dims = [cursor.u64(f"dimension {i} of {field}") for i in range(n_dims)]
    if 0 in dims:
        refuse(cursor.path, f"dimension {dims.index(0)} of {field}", "0", "at least 1")
    kind = _tensor_type(cursor.path, field, cursor.u32(f"the type of {field}"))
    layout = LAYOUTS[kind]
    if dims[0] % layout.block_size:
        refuse(
            cursor.path,
            f"the row length of {field}",
            f"{dims[0]}",
            f"a multiple of {layout.block_size}, the block size of {kind.name}",
        )
    n_bytes = prod(dims) // layout.block_size * layout.block_bytes
    if n_bytes > cursor.end:
        refuse(
            cursor.path,
            f"the size of {field}",
            f"{n_bytes} bytes (dimensions {dims}, {kind.name})",
            f"at most the file's {cursor.end} bytes",
        )
    offset = cursor.u64(f"the offset of {field}")
    if offset % alignment:
        refuse(cursor.path, f"the offset of {field}", f"{offset}", f"a multiple of the alignment {alignment}")
    return RawTensor(name, kind, tuple(reversed(dims)), n_bytes, offset)


def _tensor_type(path: str, field: str, number: int) -> GGMLType:
    try:
        return GGMLType(number)
    except ValueError:
        pass
    if number in REMOVED_TYPES:
        raise UnsupportedError(
            f"{path}: the type of {field} is {number} ({REMOVED_TYPES[number]}), which was removed from "
            "GGUF, expected a current type such as Q4_0; fetch or convert a newer file"
        )
    raise UnsupportedError(
        f"{path}: the type of {field} is {number}, which is unknown, expected one of 0 to {max(GGMLType)}; "
        "the file is damaged or newer than this edgellm: fetch it again or update edgellm"
    )


def _check_extents(cursor: _Cursor, tensors: list[RawTensor]) -> None:
    previous: RawTensor | None = None
    for tensor in sorted(tensors, key=lambda tensor: tensor.offset):
        end = tensor.offset + tensor.n_bytes
        if end > cursor.end:
            refuse(
                cursor.path,
                f"the end of tensor {show(tensor.name)}",
                f"byte {end}",
                f"at most the file's {cursor.end} bytes",
                FETCH_AGAIN,
            )
        if previous is not None and tensor.offset < previous.offset + previous.n_bytes:
            refuse(
                cursor.path,
                f"the offset of tensor {show(tensor.name)}",
                f"inside tensor {show(previous.name)}",
                "tensors that do not overlap",
            )
        previous = tensor
