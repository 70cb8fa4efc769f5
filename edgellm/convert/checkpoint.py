"""A checkpoint as a folder from the Hub holds it: config, weights in safetensors, tokenizer files.

Weights are read in place, a tensor or a few of its rows at a time. Nothing outside the folder is read, and
nothing in it is executed: pickle files are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgellm.convert.safetensors import SafetensorsFile
from edgellm.errors import FileError, FormatError, ModelError, UnsupportedError
from edgellm.gguf.types import GGMLType
from edgellm.quant import native

Floats = NDArray[np.float32]
Shape = tuple[int, ...]

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_MAX_JSON_BYTES = 256 << 20
_FLOATS = {"F32": GGMLType.F32, "F16": GGMLType.F16, "BF16": GGMLType.BF16}
# What an FP8 weight is multiplied by: one number, one for each row, or one for each 128 x 128 values.
_SCALES = ("_scale_inv", "_scale")
_IGNORED_SCALES = ("_scale_inv", "_scale", ".input_scale", ".activation_scale")


class Folder:
    """The small files of a folder."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileError(f"{folder}: there is no such folder; check the path")
        self.folder = folder

    def json(self, name: str) -> Any:
        """The object in a JSON file of the folder; None if there is no such file."""
        text = self.text(name)
        if text is None:
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormatError(
                f"{self.folder / name}: not JSON ({error}), expected an object; download it again"
            ) from None
        if not isinstance(value, dict):
            raise FormatError(
                f"{self.folder / name}: a {type(value).__name__}, expected an object; download it again"
            )
        return value

    def text(self, name: str) -> str | None:
        """The content of a text file of the folder; None if there is no such file."""
        raw = self.bytes(name)
        try:
            return None if raw is None else raw.decode()
        except UnicodeDecodeError:
            raise FormatError(f"{self.folder / name}: not UTF-8, expected text; download it again") from None

    def bytes(self, name: str) -> bytes | None:
        """The content of a file of the folder; None if there is no such file."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            if path.stat().st_size > _MAX_JSON_BYTES:
                raise FormatError(
                    f"{path}: larger than {_MAX_JSON_BYTES >> 20} MiB, expected a smaller file; check it"
                )
            return path.read_bytes()
        except OSError as error:
            raise FileError(
                f"{path}: the file cannot be read ({error.strerror}); check its permissions"
            ) from None


class Delta(Protocol):
    """What is added to a weight: see lora.Delta."""

    @property
    def shape(self) -> Shape: ...

    def rows(self, start: int, stop: int) -> Floats: ...


class Tensors:
    """The weights of some safetensors files, decoded when they are read.

    shapes: name -> shape of each weight, scales of FP8 weights left out.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._where: dict[str, SafetensorsFile] = {}
        self._deltas: dict[str, list[Delta]] = {}
        self.files = tuple(paths)
        for path in paths:
            file = SafetensorsFile(path)
            for name in file.entries:
                if name in self._where:
                    raise FormatError(
                        f"{path}: tensor {name[:80]!r} is also in {self._where[name].path.name}, "
                        "expected it once; download the checkpoint again"
                    )
                self._where[name] = file
        self.shapes: dict[str, Shape] = {
            name: file.entries[name].shape for name, file in self._where.items() if not self._is_scale(name)
        }

    def add(self, deltas: Mapping[str, Delta]) -> None:
        """Add low-rank deltas to weights from now on; ModelError for one without a weight of its shape."""
        for name, delta in deltas.items():
            if self.shapes.get(name) != delta.shape:
                raise ModelError(
                    f"the adapter changes {name[:80]!r} of shape {delta.shape}, expected one of the "
                    f"checkpoint's weights, found {self.shapes.get(name, 'none')}; it is another model's"
                )
            self._deltas.setdefault(name, []).append(delta)

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
        n_rows = int(np.prod(shape[:-1], dtype=np.int64))
        # Blocks of scales span 128 rows: pieces begin where blocks do.
        step = max(128, n_values // max(1, cols) // 128 * 128)
        file = self._where[name]
        n_bytes = file.entries[name].end - file.entries[name].begin
        for start in range(0, n_rows, step):
            stop = min(n_rows, start + step)
            values = self._rows(name, start, stop, cols, threads)
            for delta in self._deltas.get(name, ()):
                values += delta.rows(start, stop)
            yield values
            file.release(name, n_bytes // n_rows * stop)

    def read(self, name: str, threads: int) -> Floats:
        """A whole tensor as float32."""
        shape = self.shapes[name]
        values = np.empty((int(np.prod(shape[:-1], dtype=np.int64)), shape[-1] if shape else 1), np.float32)
        row = 0
        for piece in self.pieces(name, 1 << 24, threads):
            values[row : row + len(piece)] = piece
            row += len(piece)
        return values.reshape(shape)

    def _rows(self, name: str, start: int, stop: int, cols: int, threads: int) -> Floats:
        file = self._where[name]
        entry = file.entries[name]
        raw = file.data(name)
        width = raw.size // max(1, int(np.prod(entry.shape, dtype=np.int64))) * cols
        part = raw[start * width : stop * width]
        if entry.dtype in _FLOATS:
            return native.decode_values(_FLOATS[entry.dtype], part, (stop - start, cols), threads=threads)
        if entry.dtype == "F64":
            return part.view("<f8").astype(np.float32).reshape(stop - start, cols)
        if entry.dtype in ("F8_E4M3", "F8_E5M2"):
            values = _FP8[entry.dtype][part].reshape(stop - start, cols)
            return values * self._scale(name, start, stop, cols)
        raise UnsupportedError(
            f"{file.path}: tensor {name[:80]!r} is {entry.dtype}, expected floating-point weights; "
            "use the checkpoint before it was quantized"
        )

    def _scale(self, name: str, start: int, stop: int, cols: int) -> Floats:
        """Factors (1, 1), (rows, 1) or (rows, cols) for the rows start .. stop of an FP8 weight."""
        key = next((name + suffix for suffix in _SCALES if name + suffix in self._where), None)
        if key is None:
            raise ModelError(
                f"{self._where[name].path}: {name[:80]!r} is FP8 without a scale, expected "
                f"{(name + _SCALES[0])[:90]!r}; the checkpoint is incomplete, download it again"
            )
        file = self._where[key]
        entry = file.entries[key]
        if entry.dtype not in _FLOATS:
            raise UnsupportedError(f"{file.path}: the scale {key[:80]!r} is {entry.dtype}, expected floats")
        scale = native.decode_values(_FLOATS[entry.dtype], file.data(key), entry.shape, threads=1)
        n_rows = int(np.prod(self.shapes[name][:-1], dtype=np.int64))
        if scale.size == 1:
            return scale.reshape(1, 1)
        if scale.size == n_rows:
            return scale.reshape(-1, 1)[start:stop]
        if scale.ndim == 2 and scale.shape == (-(-n_rows // 128), -(-cols // 128)):
            rows = np.repeat(scale[start // 128 : -(-stop // 128)], 128, axis=0)[: stop - start]
            return np.repeat(rows, 128, axis=1)[:, :cols]
        raise ModelError(
            f"{file.path}: the scale {key[:80]!r} has shape {entry.shape}, expected one number, one for each "
            f"row, or one for each block of 128 x 128 of {self.shapes[name]}"
        )

    def _is_scale(self, name: str) -> bool:
        for suffix in _IGNORED_SCALES:
            base = name.removesuffix(suffix)
            weight = base if base in self._where else f"{base}.weight"
            if base != name and weight in self._where:
                return self._where[weight].entries[weight].dtype.startswith("F8")
        return False


class Checkpoint(Folder):
    """A checkpoint folder: its config, its tokenizer's files, its weights.

    Raises FileError for what is not there, FormatError for what is damaged, UnsupportedError for pickles.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.config = self.json("config.json")
        if self.config is None:
            raise FileError(
                f"{folder}: config.json is missing, expected the folder of a Hub checkpoint; check the path"
            )
        self.tensors = Tensors(self._shards())

    def _shards(self) -> list[Path]:
        index = self.json(_INDEX)
        if index is None:
            return [self._shard(self._single())]
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise FormatError(f"{self.folder / _INDEX}: 'weight_map' is missing, expected names and files")
        shards = []
        for shard in sorted(set(map(str, weight_map.values()))):
            path = self._shard(shard)
            entries = SafetensorsFile(path).entries
            missing = next(
                (name for name, to in weight_map.items() if to == shard and name not in entries), None
            )
            if missing is not None:
                raise FormatError(
                    f"{path}: tensor {missing[:80]!r} is missing, expected as {_INDEX} says; "
                    "download it again"
                )
            shards.append(path)
        return shards

    def _single(self) -> str:
        if (self.folder / _SINGLE).exists():
            return _SINGLE
        others = sorted(path.name for path in self.folder.glob("*.safetensors"))
        if len(others) == 1:
            return others[0]
        pickles = sorted(path.name for pattern in _PICKLES for path in self.folder.glob(pattern))
        if pickles:
            raise UnsupportedError(
                f"{self.folder / pickles[0]}: a pickle file, which can run any code when it is read; "
                "expected "
                "safetensors: take a revision of the model that has them"
            )
        found = f"{len(others)} files and no index" if others else "none"
        raise FileError(f"{self.folder}: expected {_SINGLE} or {_INDEX}, found {found}; download it again")

    def _shard(self, name: str) -> Path:
        path = self.folder / name
        if name != Path(name).name or name in ("", ".", ".."):
            raise FormatError(
                f"{self.folder / _INDEX}: names the file {name[:80]!r}, expected one in the same folder; "
                "do not use this checkpoint"
            )
        if not name.endswith(".safetensors"):
            raise UnsupportedError(
                f"{path}: not a safetensors file, expected one; take a revision of the model that has them"
            )
        if not path.is_file():
            raise FileError(f"{path}: the file is missing, expected a part of the weights; download it again")
        return path


def _fp8_table(exponent_bits: int, fraction_bits: int, bias: int, finite: bool) -> Floats:
    """All 256 values of an 8-bit float (OCP 8-bit floating point specification)."""
    codes = np.arange(256)
    exponent = (codes >> fraction_bits) & ((1 << exponent_bits) - 1)
    fraction = (codes & ((1 << fraction_bits) - 1)) / (1 << fraction_bits)
    values = np.where(exponent == 0, np.ldexp(fraction, 1 - bias), np.ldexp(1 + fraction, exponent - bias))
    top = (1 << exponent_bits) - 1
    if finite:
        values[(codes & 127) == 127] = np.nan
    else:
        values = np.where(exponent == top, np.where(fraction == 0, np.inf, np.nan), values)
    table: Floats = np.where(codes < 128, values, -values).astype(np.float32)
    return table


_FP8: Mapping[str, Floats] = {
    "F8_E4M3": _fp8_table(4, 3, 7, finite=True),
    "F8_E5M2": _fp8_table(5, 2, 15, finite=False),
}
