"""Arrays of an ONNX graph: where they lie in its data file, and what nodes make of them.

The nodes that unpack codes and scales have constant inputs. ONNX Runtime computes them once, when it loads
the model, and its matrix products get constants as if these were in the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgellm.quant.nbits import BLOCK, SPARE, Kind

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

Shape = tuple[int, ...]

MICROSOFT = "com.microsoft"
# Alignment in the data file: a page for arrays that are worth mapping, or else what vectors want.
_PAGE, _ALIGNMENT = 4096, 64
_MAPPED_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Blob:
    """An array in the data file: its bytes lie at offset .. offset + n_bytes."""

    name: str
    data_type: int
    shape: Shape
    offset: int
    n_bytes: int


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A weight of the program, and the arrays that hold it: values; or parts of codes, roots and units.

    kind: None for float32. inputs: names of what operators read: values; or codes and scales.
    """

    name: str
    kind: Kind | None
    shape: Shape
    blobs: tuple[Blob, ...]
    inputs: tuple[str, ...]

    @property
    def n_bytes(self) -> int:
        """Bytes of all its arrays."""
        return sum(blob.n_bytes for blob in self.blobs)


@dataclass(slots=True)
class Arrays:
    """The arrays and constants of a graph, and the nodes so far.

    end: size of the data file.
    """

    onnx: Any
    data_file: str
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    end: int = 0

    def node(
        self, kind: str, inputs: list[str] | tuple[str, ...], out: str, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node with one output; returns its name."""
        node = self.onnx.helper.make_node(kind, inputs, [out], name=out, domain=domain, **attributes)
        self.nodes.append(node)
        return out

    def once(self, name: str, make: Callable[[], object]) -> str:
        """Call `make` unless there is something of that name already."""
        if name not in self.known:
            self.known.add(name)
            make()
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A small array, kept in the model's own file."""
        return self.once(
            name, lambda: self.initializers.append(self.onnx.numpy_helper.from_array(value, name))
        )

    def integers(self, name: str, value: int | list[int]) -> str:
        """A constant of 64-bit integers."""
        return self.constant(name, np.asarray(value, np.int64))

    def blob(self, name: str, dtype: np.dtype[Any], shape: Shape) -> Blob:
        """Room for an array in the data file."""
        data_type = self.onnx.helper.np_dtype_to_tensor_dtype(dtype)
        n_bytes = prod(shape) * dtype.itemsize
        step = _PAGE if n_bytes >= _MAPPED_BYTES else _ALIGNMENT
        blob = Blob(name, data_type, shape, -(-self.end // step) * step, n_bytes)
        self.end = blob.offset + n_bytes
        self._declare(blob)
        return blob

    def matrix(self, name: str, kind: Kind | None, shape: Shape) -> StoredWeight:
        """A weight (rows, cols) of the program."""
        if kind is None:
            blob = self.blob(name, np.dtype(np.float32), shape)
            return StoredWeight(name, None, shape, (blob,), (name,))
        rows, n_blocks = shape[0], shape[1] // BLOCK
        parts = [
            self.blob(f"{name}_part_{i}", np.dtype(np.uint8), (rows, n_blocks, kind.part_bytes))
            for i in range(kind.n_parts)
        ]
        roots = self.blob(f"{name}_roots", np.dtype(np.int8), (rows, n_blocks))
        units = self.blob(f"{name}_units", np.dtype(np.float16), (rows, 1))
        inputs = (self._codes(name, kind, [part.name for part in parts]), self._scales(name, roots, units))
        return StoredWeight(name, kind, shape, (*parts, roots, units), inputs)

    def rows(self, weight: StoredWeight) -> str:
        """The codes of a weight as a matrix, for an operator that gathers rows of it."""
        assert weight.kind is not None
        shape = [weight.shape[0], weight.shape[1] * weight.kind.run_bits // 8]
        name = f"{weight.name}_rows"
        if len(weight.blobs) == 3:
            # The same bytes of the file under another shape.
            blob = weight.blobs[0]
            alias = Blob(name, blob.data_type, (shape[0], shape[1]), blob.offset, blob.n_bytes)
            return self.once(name, lambda: self._declare(alias))
        sizes = self.integers(f"{name}_shape", shape)
        return self.once(name, lambda: self.node("Reshape", [weight.inputs[0], sizes], name))

    def _scales(self, name: str, roots: Blob, units: Blob) -> str:
        """Scales (rows, n_blocks): a row's unit times the square of a byte over 128, with the byte's sign."""
        # Not by DequantizeLinear: ONNX Runtime computes that each time.
        part, to = self.constant("root_step", np.asarray(1 / 128, np.float32)), self.onnx.TensorProto.FLOAT
        byte = self.node("Cast", [roots.name], f"{name}_root_byte", to=to)
        root = self.node("Mul", [byte, part], f"{name}_root")
        size = self.node("Abs", [root], f"{name}_root_size")
        square = self.node("Mul", [root, size], f"{name}_square")
        unit = self.node("Cast", [units.name], f"{name}_unit", to=to)
        return self.node("Mul", [square, unit], f"{name}_scales")

    def _codes(self, name: str, kind: Kind, parts: list[str]) -> str:
        """Codes as MatMulNBits reads them (rows, n_blocks, bytes of a block)."""
        codes = f"{name}_codes"
        if kind.bits == kind.run_bits:
            # ONNX Runtime 1.32 gives wrong products in a session that computes no constants: it takes packed
            # codes for ones that come with packed scales. These codes are not packed then.
            return self.node("Identity", parts, codes)
        upper = self.constant(f"upper_{kind.bits}", np.asarray(256 - (1 << 8 - kind.bits), np.uint8))
        whole = [self.node("BitwiseAnd", [part, upper], f"{part}_codes") for part in parts]
        for number, pairs in enumerate(SPARE[kind.bits]):
            out, found = f"{name}_spare_{number}", ""
            for i, shift in pairs:
                by = self.constant(f"shift_{shift}", np.asarray(shift, np.uint8))
                term = self.node("BitShift", [parts[i], by], f"{out}_{i}", direction="LEFT")
                found = self.node("BitwiseXor", [found, term], f"{out}_with_{i}") if found else term
            whole.append(self.node("BitwiseAnd", [found, upper], out))
        return self.node("Concat", whole, codes, axis=2)

    def _declare(self, blob: Blob) -> None:
        tensor = self.onnx.TensorProto(name=blob.name, data_type=blob.data_type, dims=blob.shape)
        tensor.data_location = self.onnx.TensorProto.EXTERNAL
        place = {"location": self.data_file, "offset": blob.offset, "length": blob.n_bytes}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self.initializers.append(tensor)
