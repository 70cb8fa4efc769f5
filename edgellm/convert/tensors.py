"""The weights of a checkpoint, read in place and decoded a few rows at a time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgellm.convert import fp8
from edgellm.convert.quantized import Quantization, read_packed
from edgellm.convert.safetensors import SafetensorsFile
from edgellm.errors import FormatError, ModelError, UnsupportedError, show
from edgellm.families.checkpoint import canonical
from edgellm.gguf.types import GGMLType
from edgellm.quant import native

Floats = NDArray[np.float32]
Shape = tuple[int, ...]

_FLOATS = {"F32": GGMLType.F32, "F16": GGMLType.F16, "BF16": GGMLType.BF16}
_OTHERS = {"F64": "<f8", "I8": "i1", "U8": "u1", "I32": "<i4", "U32": "<u4", "I64": "<i8", "BOOL": "u1"}
# The scale of an FP8 weight follows its name so.
_SCALES = ("_scale_inv", "_scale")
# Scales of activations and of the cache in 8-bit floats: they change no weight.
_RUNTIME_SCALES = re.compile(
    r".*\.(input|output|activation|[qkv]|[qkv]_proj\.(input|output)|prob|kv|kv_cache)"
    r"_(scale|global_scale|zero_point|scale_ub)|.*\.[kv]_proj\.[kv]_scale|.*\.input_scale_ub"
)


class Delta(Protocol):
    """A low-rank change of a weight: see lora.Delta."""

    @property
    def shape(self) -> Shape: ...

    def rows(self, start: int, stop: int) -> Floats: ...


class Tensors:
    """The weights of some safetensors files, decoded when they are read.

    shapes: name -> shape of each weight, without scales; packed weights are under the names of whole ones.
    modules: further files, by the prefix of their tensors' names. Raises UnsupportedError for weights in a
    packed form that is not read here.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        quantization: Quantization | None = None,
        modules: Mapping[str, Path] = MappingProxyType({}),
    ) -> None:
        self._where: dict[str, SafetensorsFile] = {}
        self._deltas: dict[str, list[Delta]] = {}
        self._quantization = quantization or Quantization()
        self.files = (*paths, *modules.values())
        named = [("", path) for path in paths] + list(modules.items())
        for prefix, path in named:
            file = SafetensorsFile(path, prefix)
            for name in file.entries:
                if name in self._where:
                    raise FormatError(
                        f"{path}: tensor {show(name)} is also in {self._where[name].path.name}, "
                        "expected it once; download the checkpoint again"
                    )
                self._where[name] = file
        self._packed, used = read_packed(self, self._quantization)
        self.shapes: dict[str, Shape] = {
            name: file.entries[name].shape
            for name, file in self._where.items()
            if name not in used and not self._is_scale(name)
        } | {name: packed.shape for name, packed in self._packed.items()}

    @property
    def quantized(self) -> tuple[str, int]:
        """The form of quantized weights, and their number."""
        fp8 = sum(name in self.shapes and dtype.startswith("F8") for name, dtype in self.dtypes().items())
        return self._quantization.method or ("FP8" if fp8 else "packed"), len(self._packed) + fp8

    def dtypes(self) -> dict[str, str]:
        """The type of each tensor in the files, by name."""
        return {name: file.entries[name].dtype for name, file in self._where.items()}

    def array(self, name: str) -> NDArray[Any]:
        """A whole tensor as the file has it, floats as float32; ModelError if it is absent."""
        if name not in self._where:
            raise ModelError(
                f"{self.files[0].parent}: tensor {show(name)} is missing, expected beside its packed weight; "
                "download the checkpoint again"
            )
        file = self._where[name]
        entry, raw = file.entries[name], file.data(name)
        if entry.dtype in _FLOATS:
            return native.decode_values(_FLOATS[entry.dtype], raw, entry.shape, threads=1)
        if entry.dtype in fp8.FP8:
            return fp8.FP8[entry.dtype][raw].reshape(entry.shape)
        if entry.dtype == "F8_E8M0":
            return np.ldexp(np.float32(1), raw.astype(np.int32) - 127).reshape(entry.shape)
        if entry.dtype not in _OTHERS:
            raise self._refuse(name)
        return raw.view(_OTHERS[entry.dtype]).reshape(entry.shape)

    def add(self, deltas: Mapping[str, Delta]) -> None:
        """Add low-rank deltas to weights from now on; ModelError for one without a weight of its shape."""
        names = {canonical(name): name for name in self.shapes}
        for given, delta in deltas.items():
            name = given if given in self.shapes else names.get(canonical(given), given)
            if self.shapes.get(name) != delta.shape:
                raise ModelError(
                    f"the adapter changes {show(name)} of shape {delta.shape}, expected one of the "
                    f"checkpoint's weights, found {self.shapes.get(name, 'none')}; it is another model's"
                )
            self._deltas.setdefault(name, []).append(delta)

    def equal(self, name: str, other: str) -> bool:
        """True if two weights have the same values."""
        if self.shapes[name] != self.shapes[other]:
            return False
        both = (self.pieces(each, 1 << 22, 1) for each in (name, other))
        return all(np.array_equal(a, b) for a, b in zip(*both, strict=True))

    def sha256(self) -> str:
        """One digest of all weights: that of the lines `digest  name` of the files, by name."""
        lines = []
        for path in sorted(self.files, key=lambda path: path.name):
            with open(path, "rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def pieces(self, name: str, n_values: int, threads: int) -> Iterator[Floats]:
        """The rows of a tensor as matrices of about n_values values, float32; a vector is one row."""
        shape = self.shapes[name]
        cols = shape[-1] if shape else 1
        n_rows = prod(shape[:-1])
        step = max(128, n_values // max(1, cols) // 128 * 128)
        for start in range(0, n_rows, step):
            stop = min(n_rows, start + step)
            values = self._rows(name, start, stop, cols, threads)
            for delta in self._deltas.get(name, ()):
                values = values + delta.rows(start, stop)
            yield values
            if (file := self._where.get(name)) is not None:
                n_bytes = file.entries[name].end - file.entries[name].begin
                file.release(name, n_bytes // n_rows * stop)

    def read(self, name: str, threads: int) -> Floats:
        """A whole tensor as float32."""
        shape = self.shapes[name]
        values = np.empty((prod(shape[:-1]), shape[-1] if shape else 1), np.float32)
        row = 0
        for piece in self.pieces(name, 1 << 24, threads):
            if len(piece) == len(values):
                return piece.reshape(shape)
            values[row : row + len(piece)] = piece
            row += len(piece)
        return values.reshape(shape)

    def _rows(self, name: str, start: int, stop: int, cols: int, threads: int) -> Floats:
        if name in self._packed:
            return self._packed[name].rows(start, stop)
        file = self._where[name]
        entry = file.entries[name]
        raw = file.data(name)
        width = raw.size // max(1, prod(entry.shape)) * cols
        part = raw[start * width : stop * width]
        if entry.dtype in _FLOATS:
            return native.decode_values(_FLOATS[entry.dtype], part, (stop - start, cols), threads=threads)
        if entry.dtype == "F64":
            return part.view("<f8").astype(np.float32).reshape(stop - start, cols)
        if entry.dtype in fp8.FP8:
            values = fp8.FP8[entry.dtype][part].reshape(stop - start, cols)
            return values * self._scale(name, start, stop)
        raise self._refuse(name)

    def _refuse(self, name: str) -> UnsupportedError:
        file = self._where[name]
        return UnsupportedError(
            f"{file.path}: tensor {show(name)} is {file.entries[name].dtype}, expected floating-point "
            "weights; use the checkpoint before it was quantized"
        )

    def _scale(self, name: str, start: int, stop: int) -> Floats:
        """Factors (1, 1), (rows, 1) or (rows, cols) for the rows start .. stop of an FP8 weight."""
        file = self._where[name]
        key = next((name + suffix for suffix in _SCALES if name + suffix in self._where), None)
        if key is None:
            raise ModelError(
                f"{file.path}: {show(name)} is FP8 without a scale, expected {show(name + _SCALES[0])}; the "
                "checkpoint is incomplete, download it again"
            )
        scale = self.array(key)
        if scale.dtype != np.float32:
            raise UnsupportedError(f"{file.path}: the scale {show(key)} is {scale.dtype}, expected floats")
        block = self._quantization.fp8_block
        found = fp8.factors(scale, self.shapes[name], start, stop, block)
        if found is None:
            raise ModelError(
                f"{file.path}: the scale {show(key)} has shape {scale.shape}, expected one number, one for "
                f"each row, or one for each block of {block[0]} x {block[1]} of {self.shapes[name]}"
            )
        return found

    def _is_scale(self, name: str) -> bool:
        if _RUNTIME_SCALES.fullmatch(name):
            return True
        for suffix in _SCALES:
            base = name.removesuffix(suffix)
            if base != name and base in self._where:
                return self._where[base].entries[base].dtype.startswith("F8")
        return False
