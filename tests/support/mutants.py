"""Whole models, broken in a few places: values change, not bytes, so that most files still parse.

    mutant = mutate(Parts.of(path), random.Random(seed))
    path.write_bytes(mutant.build())

Numbers become telling ones, types and lengths change, entries are dropped, doubled or exchanged, texts are
cut or filled with what a parser may not expect, weights become NaN or noise.
"""

from __future__ import annotations

import random
import struct
from copy import deepcopy
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import LAYOUTS, GGMLType, ValueType
from tests.support.gguf_builder import SCALAR_FORMATS, GGUFBuilder

INTEGERS = (-1, 0, 1, 2, 3, 7, 8, 31, 33, 64, 127, 255, 256, 1000, 65535, 2**20, 2**31 - 1, 2**31, 2**32 - 1)
LARGE_INTEGERS = (2**40, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 1e-30, 0.5, 3.0, 1e9, 3.4e38, -3.4e38, float("inf"), float("nan"))
TEXTS = (
    "",
    "\x00",
    "a" * 70_000,
    "\u202e\U0001f600\u0301",
    "{{ 1",
    "{% for m in messages %}{{ m.content }}",
    "{{ messages[99].content }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "llama",
    "gemma3",
    "qwen35",
    "bert",
    "mamba2",
    "gpt2",
    "default",
    "yarn",
    "linear",
)
SCALARS = [kind for kind in ValueType if kind not in (ValueType.STRING, ValueType.ARRAY)]


@dataclass
class Pair:
    """A metadata pair; `element`: of an array, the type of its elements."""

    key: str
    kind: ValueType
    element: ValueType | None
    value: Any


@dataclass
class Tensor:
    """A tensor, `shape` in NumPy order."""

    name: str
    kind: int
    shape: tuple[int, ...]
    raw: bytes


@dataclass
class Parts:
    """Parts of a GGUF file."""

    pairs: list[Pair]
    tensors: list[Tensor]

    @classmethod
    def of(cls, path: Path) -> Parts:
        """The parts of a valid file."""
        with GGUFFile.open(path) as file:
            metadata = file.metadata
            pairs = [
                Pair(key, metadata.value_type(key), metadata.element_type(key), metadata[key])
                for key in metadata
            ]
            tensors = [
                Tensor(name, info.type, info.shape, bytes(file.view(name)))
                for name, info in file.tensors.items()
            ]
        return cls(pairs, tensors)

    def build(self) -> bytes:
        """The file's bytes."""
        builder = GGUFBuilder()
        for pair in self.pairs:
            builder.kv(pair.key, pair.value, pair.kind, pair.element)
        for tensor in self.tensors:
            builder.tensor(tensor.name, tensor.kind, tensor.shape, tensor.raw)
        return builder.build()


def mutate(parts: Parts, rng: random.Random) -> Parts:
    """A copy, changed in one to three places."""
    changed = Parts([*map(deepcopy, parts.pairs)], list(parts.tensors))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice((_change_pair, _change_pair, _change_pair, _change_tensor, _change_list))(changed, rng)
    return changed


def _change_pair(parts: Parts, rng: random.Random) -> None:
    pair = rng.choice(parts.pairs)
    if rng.random() < 0.1:
        _retype(pair, rng)
    elif pair.kind is ValueType.STRING:
        pair.value = _text(pair.value, rng)
    elif pair.kind is not ValueType.ARRAY:
        pair.value = _number(pair.value, pair.kind, rng)
    elif pair.value:
        _change_array(pair, rng)


def _change_array(pair: Pair, rng: random.Random) -> None:
    values, element = list(pair.value), pair.element
    assert element is not None
    at = rng.randrange(len(values))
    match rng.randrange(5):
        case 0:
            del values[at:]
        case 1:
            values[at:at] = values[: rng.randrange(1, 40)]
        case 2:
            values[at] = values[rng.randrange(len(values))]
        case _:
            for i in {at, rng.randrange(len(values)), 0, len(values) - 1}:
                if isinstance(values[i], str):
                    values[i] = _text(values[i], rng)
                elif not isinstance(values[i], list):
                    values[i] = _number(values[i], element, rng)
    pair.value = values


def _retype(pair: Pair, rng: random.Random) -> None:
    """A value of another type: a number, a text, or an array of either."""
    kind = rng.choice((*SCALARS, ValueType.STRING))
    value = rng.choice(TEXTS) if kind is ValueType.STRING else _number(rng.choice((0, 1, 7)), kind, rng)
    if rng.random() < 0.3:
        pair.kind, pair.element, pair.value = ValueType.ARRAY, kind, [value] * rng.choice((0, 1, 2, 300))
    else:
        pair.kind, pair.element, pair.value = kind, None, value


def _number(value: Any, kind: ValueType, rng: random.Random) -> Any:
    if kind is ValueType.BOOL:
        return not value
    if kind in (ValueType.FLOAT32, ValueType.FLOAT64):
        return rng.choice((*FLOATS, *(value * factor for factor in (-1, 0.5, 2, 1e3) if abs(value) < 1e30)))
    size = struct.calcsize(SCALAR_FORMATS[kind])
    found = rng.choice((*INTEGERS, *LARGE_INTEGERS, *(value + step for step in (-2, -1, 1, 2, value))))
    wrapped = int(found) % 256**size
    signed = kind in (ValueType.INT8, ValueType.INT16, ValueType.INT32, ValueType.INT64)
    return wrapped - 256**size if signed and wrapped >= 256**size // 2 else wrapped


def _text(value: str, rng: random.Random) -> str:
    at = rng.randrange(len(value) + 1)
    return rng.choice(
        (*TEXTS, value[:at], value[at:], value[:at] + rng.choice(TEXTS) + value[at:], value * 2)
    )


def _change_tensor(parts: Parts, rng: random.Random) -> None:
    at = rng.randrange(len(parts.tensors))
    tensor = parts.tensors[at]
    name, kind, shape, raw = tensor.name, tensor.kind, list(tensor.shape), tensor.raw
    match rng.randrange(6):
        case 0:
            shape.reverse()
        case 1:
            i = rng.randrange(len(shape))
            shape[i] = max(1, shape[i] + rng.choice((-shape[i] // 2, -1, 1, shape[i])))
            raw = _of_size(kind, shape, raw)
        case 2:
            kind = rng.choice(list(GGMLType))
            raw = _of_size(kind, shape, raw)
        case 3:
            name = rng.choice((rng.choice(parts.tensors).name, name[:-1], name.replace("0", "1"), "x"))
        case 4:
            raw = rng.randbytes(len(raw))
        case _:
            values = bytearray(raw)
            for _ in range(4):
                i = rng.randrange(max(1, len(values) // 4)) * 4
                values[i : i + 4] = struct.pack("<f", rng.choice(FLOATS))
            raw = bytes(values[: len(raw)])
    parts.tensors[at] = Tensor(name, kind, tuple(shape), raw)


def _of_size(kind: int, shape: list[int], raw: bytes) -> bytes:
    """As many bytes as a tensor of this type and shape has, from those there are."""
    layout = LAYOUTS[GGMLType(kind)]
    n_bytes = min(prod(shape) // layout.block_size * layout.block_bytes, 1 << 24)
    return (raw * (n_bytes // max(1, len(raw)) + 1))[:n_bytes]


def _change_list(parts: Parts, rng: random.Random) -> None:
    """Drop, double, rename or exchange pairs or tensors."""
    if not (parts.pairs and parts.tensors):
        return
    match rng.randrange(6):
        case 0:
            del parts.pairs[rng.randrange(len(parts.pairs))]
        case 1:
            del parts.tensors[rng.randrange(len(parts.tensors))]
        case 2:
            one, other = rng.choice(parts.pairs), rng.choice(parts.pairs)
            one.kind, other.kind = other.kind, one.kind
            one.element, other.element = other.element, one.element
            one.value, other.value = other.value, one.value
        case 3:
            i, j = rng.randrange(len(parts.tensors)), rng.randrange(len(parts.tensors))
            first, second = parts.tensors[i], parts.tensors[j]
            parts.tensors[i] = replace(second, name=first.name)
            parts.tensors[j] = replace(first, name=second.name)
        case 4:
            parts.pairs.append(deepcopy(rng.choice(parts.pairs)))
        case _:
            pair = rng.choice(parts.pairs)
            pair.key = rng.choice((rng.choice(parts.pairs).key, pair.key + "s", pair.key[:-1]))
