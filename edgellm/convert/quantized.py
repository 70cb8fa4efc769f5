"""Checkpoints in packed integer or 4-bit forms: read where the layout is simple, else refused by their names.

GPTQ: the layout of AutoGPTQ and GPTQModel (Frantar et al. 2022). AWQ: AutoAWQ's gemm layout (Lin et al.
2023). compressed-tensors: pack-quantized, int-quantized, nvfp4-pack-quantized. NVFP4 of ModelOpt. mxfp4, as
gpt-oss's config calls it. MLX: affine groups. BitNet: ternary weights, packed or rounded as they are loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgellm.convert.fp8 import BLOCK
from edgellm.errors import ModelError, UnsupportedError, show

Floats = NDArray[np.float32]
Shape = tuple[int, ...]
_BITS = (2, 4, 8)
# Column of each 4-bit code of a word in AWQ's order.
_AWQ_ORDER = np.array((0, 2, 4, 6, 1, 3, 5, 7))
# The 16 values of a 4-bit float (OCP Microscaling Formats, E2M1).
_FP4 = np.array((0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6), np.float32)
# Names that other tools leave beside their weights.
_SIGNS = (
    (r"\.quant_state\.bitsandbytes__|\.weight\.absmax$", "bitsandbytes in 4 bits"),
    (r"\.SCB$", "bitsandbytes in 8 bits"),
    (r"\.W_q$", "HQQ"),
    (r"\.(codes|codebooks)$", "AQLM"),
    (r"\.Qidxs", "QuIP#"),
    (r"\._data$|\.weight\._scale$", "quanto"),
    (r"\.qweight_type$", "auto-round"),
    (r"\.B$|\.weight_packed_24$", "Marlin"),
)
_INTEGERS = ("I8", "U8", "I16", "U16", "I32", "U32", "F4", "F6_E2M3", "F6_E3M2")


@dataclass(frozen=True, slots=True)
class Quantization:
    """The quantization that a checkpoint's config names; method: empty if it names none."""

    method: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any], separate: Mapping[str, Any] | None) -> Quantization:
        """The quantization of config.json, or else of the quantize_config.json that older tools write."""
        nested = config.get("text_config")
        for values in (config, nested if isinstance(nested, Mapping) else {}):
            for key in ("quantization_config", "compression_config", "quantization"):
                found = values.get(key)
                if isinstance(found, Mapping):
                    method = found.get("quant_method") or ("mlx" if key == "quantization" else "unnamed")
                    return cls(str(method), found)
        return cls("gptq", separate) if separate else cls()

    @property
    def fp8_block(self) -> tuple[int, int]:
        """Rows and columns of an FP8 block with its own scale."""
        size = self.settings.get("weight_block_size")
        for group in _groups(self.settings):
            size = size or group.get("block_structure")
        if size is None:
            return BLOCK
        if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and n > 0 for n in size):
            raise ModelError(f"config.json: the size of FP8 blocks is {show(size)}, expected two numbers")
        return size[0], size[1]

    def integer(self, *keys: str, allowed: tuple[int, ...] | None = None) -> int:
        """A whole number of the settings; UnsupportedError for one that is not allowed."""
        found = next((self.settings[key] for key in keys if self.settings.get(key) is not None), None)
        if type(found) is not int or (allowed is not None and found not in allowed):
            expected = "a whole number" if allowed is None else f"one of {', '.join(map(str, allowed))}"
            raise UnsupportedError(
                f"config.json: {keys[0]!r} of the quantization by {self.method} is {show(found)}, expected "
                f"{expected}; use the checkpoint before it was quantized"
            )
        return found


class _Source(Protocol):
    def dtypes(self) -> dict[str, str]: ...
    def array(self, name: str) -> NDArray[Any]: ...


@dataclass(frozen=True, slots=True)
class Packed:
    """A weight in a packed form: its shape as a whole, its rows when they are read."""

    shape: Shape
    read: Callable[[int, int], NDArray[Any]]

    def rows(self, start: int, stop: int) -> Floats:
        """The rows start .. stop."""
        return np.ascontiguousarray(self.read(start, stop), np.float32)


def read_packed(tensors: _Source, quantization: Quantization) -> tuple[dict[str, Packed], set[str]]:
    """The packed weights by the names of whole ones, and the names of the tensors that they are made of.

    Raises UnsupportedError for a packed form that is not read here, ModelError for parts that do not fit.
    """
    dtypes = tensors.dtypes()
    packed: dict[str, Packed] = {}
    used: set[str] = set()
    for name, dtype in dtypes.items():
        for pattern, dtype_of, reader, parts in _FORMS:
            match = re.fullmatch(pattern, name)
            if match is None or dtype not in dtype_of:
                continue
            base = match[1]
            beside = {f"{base}{part}" for part in parts} & dtypes.keys()
            made = reader(tensors, base, quantization, dtypes)
            if made is not None:
                packed[made[0]] = made[1]
                used |= beside | {name}
                break
    _refuse_others(dtypes, used, quantization)
    return packed, used


def _refuse_others(dtypes: Mapping[str, str], used: set[str], quantization: Quantization) -> None:
    """Name the tool that packed weights which no reader here takes."""
    for name, dtype in dtypes.items():
        sign = next((tool for pattern, tool in _SIGNS if re.search(pattern, name)), None)
        weight = dtype in _INTEGERS and re.search(r"(weight|qweight|weight_packed|_blocks)$", name)
        if name not in used and (sign is not None or (weight and quantization.method)):
            raise UnsupportedError(
                f"the checkpoint is quantized by {sign or quantization.method} (tensor {show(name)} is "
                f"{dtype}), expected floating-point weights, fp8, gptq, awq, compressed-tensors, modelopt's "
                "nvfp4, mxfp4, bitnet or mlx; use the checkpoint before it was quantized"
            )


def _codes(words: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Codes packed in words along the last axis, lowest bits first: (..., n) -> (..., n * 32 / bits)."""
    octets = np.ascontiguousarray(words).view(np.uint8)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes: NDArray[np.uint8] = (octets[..., None] >> shifts) & np.uint8(2**bits - 1)
    return codes.reshape(*octets.shape[:-1], -1)


def _fit(ok: bool, base: str, method: str, **arrays: NDArray[Any]) -> None:
    if not ok:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise ModelError(
            f"the packed weight {show(base)} of {method} has parts of shapes {shapes}, which do not fit "
            "together"
        )


def _gptq(
    tensors: _Source, base: str, q: Quantization, dtypes: Mapping[str, str]
) -> tuple[str, Packed] | None:
    """Codes along the inputs, zero points along the outputs, stored less 1 but in the second version."""
    if q.method == "awq" or "awq" in str(q.settings.get("packing_format")):
        return _awq(tensors, base, q)
    bits = q.integer("bits", "w_bit", allowed=_BITS)
    words, scales = tensors.array(f"{base}.qweight"), tensors.array(f"{base}.scales")
    _fit(words.ndim == scales.ndim == 2, base, "gptq", qweight=words, scales=scales)
    n_in, n_out = words.shape[0] * 32 // bits, words.shape[1]
    n_groups = len(scales)
    first_version = "v2" not in str(q.settings.get("checkpoint_format"))
    zeros: NDArray[Any] = np.full(scales.shape, 2 ** (bits - 1), np.uint8)
    if f"{base}.qzeros" in dtypes:
        stored = tensors.array(f"{base}.qzeros")
        _fit(stored.shape == (n_groups, n_out * bits // 32), base, "gptq", qzeros=stored, scales=scales)
        one = np.uint32(sum(1 << shift for shift in range(0, 32, bits)) if first_version else 0)
        # Whole words, as GPTQModel adds: a zero point of 0 is stored as -1, which borrows from the next one.
        zeros = _codes(stored.view(np.uint32) + one, bits)
    group = np.arange(n_in) // max(1, -(-n_in // n_groups))
    if f"{base}.g_idx" in dtypes:
        group = tensors.array(f"{base}.g_idx").astype(np.int64)
    fits = scales.shape == zeros.shape == (n_groups, n_out) and group.shape == (n_in,)
    fits = fits and bool((group >= 0).all() and (group < n_groups).all())
    _fit(fits, base, "gptq", qweight=words, scales=scales, g_idx=group)

    def read(start: int, stop: int) -> Any:
        codes = _codes(words[:, start:stop].T, bits)
        return (codes - zeros[:, start:stop].T[:, group].astype(np.float32)) * scales[:, start:stop].T[
            :, group
        ]

    return f"{base}.weight", Packed((n_out, n_in), read)


def _awq(tensors: _Source, base: str, q: Quantization) -> tuple[str, Packed]:
    """Codes and zero points along the outputs, eight of a word in an order of their own."""
    q.integer("bits", "w_bit", allowed=(4,))
    version = str(q.settings.get("version", "gemm")).lower()
    if version != "gemm" and q.method == "awq":
        raise UnsupportedError(
            f"config.json: 'version' of the quantization by awq is {show(version)}, expected gemm; use the "
            "checkpoint before it was quantized"
        )
    words, zeros, scales = (tensors.array(f"{base}.{part}") for part in ("qweight", "qzeros", "scales"))
    n_in = len(words)
    n_groups = len(scales)
    fits = words.ndim == 2 and scales.shape == (n_groups, words.shape[1] * 8) and n_in % max(1, n_groups) == 0
    fits = fits and zeros.shape == (n_groups, words.shape[1])
    _fit(fits, base, "awq", qweight=words, qzeros=zeros, scales=scales)
    group = np.arange(n_in) // (n_in // n_groups)

    def columns(array: NDArray[Any]) -> NDArray[np.uint8]:
        codes = _codes(array, 4).reshape(len(array), -1, 8)
        ordered = np.empty_like(codes)
        ordered[..., _AWQ_ORDER] = codes
        return ordered.reshape(len(array), -1)

    def read(start: int, stop: int) -> Any:
        first = start // 8
        part = slice(first, -(-stop // 8))
        cut = slice(start - first * 8, stop - first * 8)
        codes, zero = (columns(array[:, part])[:, cut].T for array in (words, zeros))
        return (codes - zero[:, group].astype(np.float32)) * scales[:, start:stop].T[:, group]

    return f"{base}.weight", Packed((scales.shape[1], n_in), read)


def _groups(settings: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The weights' settings of each group of compressed-tensors."""
    groups = settings.get("config_groups")
    found = (
        [g.get("weights") for g in groups.values() if isinstance(g, Mapping)]
        if isinstance(groups, dict)
        else []
    )
    return [weights for weights in found if isinstance(weights, Mapping)]


def _compressed(
    tensors: _Source, base: str, q: Quantization, dtypes: Mapping[str, str]
) -> tuple[str, Packed] | None:
    """Codes along the columns, signed by an offset; zero points packed along the rows."""
    bits = {group.get("num_bits") for group in _groups(q.settings)}
    if len(bits) != 1 or not bits <= set(_BITS):
        raise UnsupportedError(
            "config.json: 'num_bits' of the quantization by compressed-tensors is "
            f"{show(sorted(map(str, bits)))}, expected one of {', '.join(map(str, _BITS))}; use the "
            "checkpoint before it was quantized"
        )
    (n_bits,) = bits
    assert isinstance(n_bits, int)
    words, scale = tensors.array(f"{base}.weight_packed"), tensors.array(f"{base}.weight_scale")
    shape = tuple(map(int, tensors.array(f"{base}.weight_shape").reshape(-1)))
    parts = {"weight_packed": words, "weight_scale": scale}
    _fit(len(shape) == 2 and words.ndim == 2 and scale.size > 0, base, "compressed-tensors", **parts)
    scale = scale.reshape(-1, scale.shape[-1]) if scale.ndim > 1 else scale.reshape(-1, 1)
    fits = words.shape == (shape[0], -(-shape[1] * n_bits // 32)) and len(scale) in (1, shape[0])
    _fit(fits and shape[1] % scale.shape[1] == 0, base, "compressed-tensors", **parts)
    group = np.arange(shape[1]) // (shape[1] // scale.shape[1])
    if f"{base}.weight_g_idx" in dtypes:
        order = tensors.array(f"{base}.weight_g_idx").astype(np.int64)
        group = order if order.shape == group.shape and (order >= 0).all() else group
        _fit(int(group.max()) < scale.shape[1], base, "compressed-tensors", weight_g_idx=order)
    zero = np.float32(2 ** (n_bits - 1))
    zeros = np.full((len(scale), scale.shape[1]), zero, np.float32)
    if f"{base}.weight_zero_point" in dtypes:
        stored = tensors.array(f"{base}.weight_zero_point")
        unpacked = _codes(stored.T, n_bits).T[: shape[0]] if stored.dtype == np.int32 else stored + zero
        _fit(unpacked.shape == scale.shape, base, "compressed-tensors", weight_zero_point=stored)
        zeros = unpacked.astype(np.float32)

    def read(start: int, stop: int) -> Any:
        rows = slice(start, stop) if len(scale) > 1 else slice(0, 1)
        codes = _codes(words[start:stop], n_bits)[:, : shape[1]]
        return (codes - zeros[rows][:, group]) * scale[rows][:, group]

    return f"{base}.weight", Packed(shape, read)


def _int8(
    tensors: _Source, base: str, q: Quantization, dtypes: Mapping[str, str]
) -> tuple[str, Packed] | None:
    """Signed bytes with one scale, or one for each row or group."""
    if f"{base}.weight_scale" not in dtypes:
        return None
    codes, scale = tensors.array(f"{base}.weight"), tensors.array(f"{base}.weight_scale")
    scale = scale.reshape(-1, scale.shape[-1]) if scale.ndim > 1 else scale.reshape(-1, 1)
    fits = codes.ndim == 2 and len(scale) in (1, len(codes)) and codes.shape[1] % scale.shape[1] == 0
    _fit(fits, base, q.method or "int8", weight=codes, weight_scale=scale)
    zeros = np.zeros(scale.shape, np.float32)
    if f"{base}.weight_zero_point" in dtypes:
        zeros = tensors.array(f"{base}.weight_zero_point").reshape(scale.shape).astype(np.float32)
    group = np.arange(codes.shape[1]) // (codes.shape[1] // scale.shape[1])

    def read(start: int, stop: int) -> Any:
        rows = slice(start, stop) if len(scale) > 1 else slice(0, 1)
        return (codes[start:stop] - zeros[rows][:, group]) * scale[rows][:, group]

    return f"{base}.weight", Packed(codes.shape, read)


def _nvfp4(
    tensors: _Source, base: str, q: Quantization, dtypes: Mapping[str, str]
) -> tuple[str, Packed] | None:
    """Pairs of 4-bit floats, the low one first; an FP8 scale for each 16 and one for all."""
    name = "weight_packed" if f"{base}.weight_packed" in dtypes else "weight"
    times, over = f"{base}.weight_scale_2", f"{base}.weight_global_scale"
    if f"{base}.weight_scale" not in dtypes or not {times, over} & dtypes.keys():
        return None
    codes, scale = tensors.array(f"{base}.{name}"), tensors.array(f"{base}.weight_scale")
    whole = tensors.array(times) if times in dtypes else 1 / tensors.array(over)
    fits = (
        codes.ndim == scale.ndim == 2 and codes.shape == (len(scale), scale.shape[1] * 8) and whole.size == 1
    )
    _fit(fits, base, "nvfp4", weight=codes, weight_scale=scale, global_scale=whole)
    factor = whole.reshape(()).astype(np.float32)

    def read(start: int, stop: int) -> Any:
        return _FP4[_codes(codes[start:stop], 4)] * np.repeat(scale[start:stop] * factor, 16, axis=1)

    return f"{base}.weight", Packed((len(codes), codes.shape[1] * 2), read)


def _mxfp4(
    tensors: _Source, base: str, q: Quantization, dtypes: Mapping[str, str]
) -> tuple[str, Packed] | None:
    """gpt-oss's experts: blocks of 32 4-bit floats and a power of two; inputs and outputs change places."""
    blocks, powers = tensors.array(f"{base}_blocks"), tensors.array(f"{base}_scales")
    fits = blocks.ndim == 4 and blocks.shape[-1] == 16 and powers.shape == blocks.shape[:-1]
    _fit(fits, base, "mxfp4", blocks=blocks, scales=powers)
    n_experts, n_out, n_in = blocks.shape[0], blocks.shape[1], blocks.shape[2] * 32

    def expert(i: int) -> Any:
        values = (
            _FP4[_codes(blocks[i], 4)] * np.ldexp(np.float32(1), powers[i].astype(np.int32) - 127)[..., None]
        )
        return values.reshape(n_out, n_in).T

    def read(start: int, stop: int) -> Any:
        experts = range(start // n_in, -(-stop // n_in))
        first = experts[0] * n_in
        return np.concatenate([expert(i) for i in experts])[start - first : stop - first]

    return base, Packed((n_experts, n_in, n_out), read)


def _mlx(
    tensors: _Source, base: str, q: Quantization, dtypes: Mapping[str, str]
) -> tuple[str, Packed] | None:
    """Codes along the columns; a scale and a bias for each group of columns."""
    if (
        not {f"{base}.scales", f"{base}.biases"} <= dtypes.keys()
        or q.settings.get("mode", "affine") != "affine"
    ):
        return None
    words, scales, biases = (tensors.array(f"{base}.{part}") for part in ("weight", "scales", "biases"))
    own = q.settings.get(base)
    settings = Quantization(q.method, own if isinstance(own, Mapping) else q.settings)
    bits = settings.integer("bits", allowed=_BITS)
    n_cols = words.shape[-1] * 32 // bits
    fits = words.ndim == 2 and scales.shape == biases.shape and len(scales) == len(words)
    _fit(
        fits and n_cols % max(1, prod(scales.shape[1:])) == 0,
        base,
        "MLX",
        weight=words,
        scales=scales,
        biases=biases,
    )
    size = n_cols // scales.shape[1]

    def read(start: int, stop: int) -> Any:
        each, zero = (np.repeat(a[start:stop], size, axis=1) for a in (scales, biases))
        return _codes(words[start:stop], bits) * each + zero

    return f"{base}.weight", Packed((len(words), n_cols), read)


def _bitnet(
    tensors: _Source, base: str, q: Quantization, dtypes: Mapping[str, str]
) -> tuple[str, Packed] | None:
    """Ternary weights, four of a byte: row i of the four quarters of rows, lowest bits first; one scale."""
    if q.method != "bitnet" or f"{base}.weight_scale" not in dtypes:
        return None
    codes, scale = tensors.array(f"{base}.weight"), tensors.array(f"{base}.weight_scale")
    _fit(codes.ndim == 2 and scale.size == 1, base, "bitnet", weight=codes, weight_scale=scale)
    quarter = len(codes)
    # One class of layers multiplies by the scale, the other divides.
    multiplies = q.settings.get("linear_class", "bitlinear") == "autobitlinear"
    factor = np.float32(float(scale.reshape(-1)[0]) ** (1 if multiplies else -1))

    def read(start: int, stop: int) -> Any:
        rows = np.arange(start, stop)
        parts = codes[rows % quarter] >> (2 * (rows // quarter)).astype(np.uint8)[:, None]
        return ((parts & 3).astype(np.float32) - 1) * factor

    return f"{base}.weight", Packed((4 * quarter, codes.shape[1]), read)


def _bitnet_online(
    tensors: _Source, base: str, q: Quantization, dtypes: Mapping[str, str]
) -> tuple[str, Packed] | None:
    """Floats that a layer rounds to -1, 0 or 1 times their mean magnitude when it is loaded."""
    if q.method != "bitnet" or q.settings.get("quantization_mode") != "online":
        return None
    name = f"{base}.weight"
    shape = tensors.array(name).shape

    @cache
    def scale() -> np.float32:
        return np.float32(max(float(np.abs(tensors.array(name)).mean(dtype=np.float64)), 1e-5))

    def read(start: int, stop: int) -> Any:
        return np.clip(np.rint(tensors.array(name)[start:stop] / scale()), -1, 1) * scale()

    return name, Packed(shape, read)


_COMPRESSED = (
    ".weight_scale",
    ".weight_shape",
    ".weight_zero_point",
    ".weight_g_idx",
    ".weight_global_scale",
)
# Name and type of a packed tensor, its reader, the parts beside it.
_FORMS: tuple[tuple[str, tuple[str, ...], Any, tuple[str, ...]], ...] = (
    (r"(.+)\.qweight", ("I32",), _gptq, (".qzeros", ".scales", ".g_idx")),
    (r"(.+)\.weight_packed", ("U8",), _nvfp4, _COMPRESSED),
    (r"(.+)\.weight_packed", ("I32",), _compressed, _COMPRESSED),
    (r"(.+)\.weight", ("U8",), _nvfp4, (".weight_scale", ".weight_scale_2")),
    (r"(.+)\.weight", ("U8",), _bitnet, (".weight_scale",)),
    (r"(.+_proj)\.weight", ("BF16", "F16", "F32"), _bitnet_online, ()),
    (r"(.+)\.weight", ("I8",), _int8, (".weight_scale", ".weight_zero_point")),
    (r"(.+)\.weight", ("U32",), _mlx, (".scales", ".biases")),
    (r"(.+)_blocks", ("U8",), _mxfp4, ("_scales",)),
)
