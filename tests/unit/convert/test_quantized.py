"""Packed checkpoints: read as independent packers, written from the public descriptions, packed them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.tensors import Tensors
from edgellm.errors import ModelError, UnsupportedError
from tests.support.checkpoints import CONFIG, save, weights, write_checkpoint

pytest.importorskip("edgellm._native", reason="needs the built extension module")

N_IN, N_OUT, GROUP = 64, 48, 16
Named = dict[str, tuple[str, NDArray[Any]]]
FP4 = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def fp4(code: int) -> float:
    return FP4[code & 7] * (-1 if code & 8 else 1)


def e4m3(code: int) -> float:
    code = int(code)
    exponent, fraction = (code >> 3) & 15, (code & 7) / 8
    return (2.0**-6 * fraction if exponent == 0 else 2.0 ** (exponent - 7) * (1 + fraction)) * (
        -1 if code >> 7 else 1
    )


def word(values: list[int], bits: int) -> int:
    """32 bits of codes, the first lowest, as a signed number."""
    total = sum(int(value) << (bits * i) for i, value in enumerate(values)) & 0xFFFFFFFF
    return total - (1 << 32) if total >> 31 else total


def packed(codes: NDArray[Any], bits: int, axis: int) -> NDArray[np.int32]:
    """Codes in words along an axis, one by one."""
    rows = np.moveaxis(codes, axis, -1)
    per = 32 // bits
    words = [[word(list(row[i : i + per]), bits) for i in range(0, len(row), per)] for row in rows]
    return np.moveaxis(np.array(words, np.int64).astype(np.int32), -1, axis)


def codes_of(bits: int, *shape: int) -> NDArray[np.int64]:
    return np.random.default_rng(bits).integers(0, 2**bits, shape)


def scales_of(*shape: int) -> NDArray[np.float32]:
    """Scales that half floats hold exactly."""
    return (np.random.default_rng(7).integers(512, 1536, shape) / 1024).astype(np.float32)


def read(
    folder: Path, named: Named, quantization: dict[str, Any] | None, key: str = "quantization_config"
) -> Tensors:
    """The tensors of a folder with these beside a config that names the quantization."""
    write_checkpoint(folder, CONFIG | ({key: quantization} if quantization is not None else {}))
    save(folder / "model.safetensors", named)
    return Checkpoint(folder).tensors


def check(tensors: Tensors, name: str, expected: NDArray[Any], *others: str) -> None:
    assert set(tensors.shapes) == {name, *others}
    assert tensors.shapes[name] == expected.shape
    np.testing.assert_allclose(tensors.read(name, 1), expected, rtol=1e-6)
    n_cols = expected.shape[-1]
    for piece_rows in (1, 128):
        pieces = list(tensors.pieces(name, piece_rows * n_cols, 1))
        np.testing.assert_allclose(np.concatenate(pieces), expected.reshape(-1, n_cols), rtol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("order", ["none", "in turn", "mixed"])
def test_gptq(bits: int, version: str, order: str, tmp_path: Path) -> None:
    codes, scales = codes_of(bits, N_IN, N_OUT), scales_of(N_IN // GROUP, N_OUT)
    zeros = np.random.default_rng(3).integers(0, 2**bits, scales.shape)
    group = np.arange(N_IN) // GROUP
    if order == "mixed":
        group = np.random.default_rng(4).permutation(group)
    expected = np.array(
        [
            [(codes[i, o] - zeros[group[i], o]) * scales[group[i], o] for i in range(N_IN)]
            for o in range(N_OUT)
        ]
    )
    stored = packed(zeros, bits, 1)
    if version == "gptq":  # less one in each field, as one subtraction from the word
        ones = sum(1 << shift for shift in range(0, 32, bits))
        stored = (stored.view(np.uint32) - np.uint32(ones)).view(np.int32)
    named: Named = {"a.qweight": ("I32", packed(codes, bits, 0)), "a.scales": ("F16", scales)}
    named |= {"a.qzeros": ("I32", stored), "a.bias": ("F32", scales[0])}
    if order != "none":
        named["a.g_idx"] = ("I32", group)
    settings = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "checkpoint_format": version}
    check(read(tmp_path, named, settings), "a.weight", expected, "a.bias")


def test_gptq_of_older_tools(tmp_path: Path) -> None:
    codes, scales = codes_of(4, N_IN, N_OUT), scales_of(1, N_OUT)
    named: Named = {"a.qweight": ("I32", packed(codes, 4, 0)), "a.scales": ("F16", scales)}
    named["a.qzeros"] = ("I32", packed(np.full((1, N_OUT), 7), 4, 1))
    write_checkpoint(tmp_path)
    (tmp_path / "quantize_config.json").write_text(json.dumps({"bits": 4, "group_size": -1}))
    save(tmp_path / "model.safetensors", named)
    check(Checkpoint(tmp_path).tensors, "a.weight", ((codes - 8) * scales).T)


@pytest.mark.parametrize("method", ["awq", "auto-round"])
def test_awq(method: str, tmp_path: Path) -> None:
    codes, scales = codes_of(4, N_IN, N_OUT), scales_of(N_IN // GROUP, N_OUT)
    zeros = codes_of(4, *scales.shape)
    group = np.arange(N_IN) // GROUP
    expected = ((codes - zeros[group]) * scales[group]).T

    def ordered(values: NDArray[Any]) -> NDArray[np.int32]:
        shuffled = values.reshape(len(values), -1, 8)[..., AWQ_ORDER].reshape(values.shape)
        return packed(shuffled, 4, 1)

    named: Named = {"a.qweight": ("I32", ordered(codes)), "a.qzeros": ("I32", ordered(zeros))}
    named["a.scales"] = ("F16", scales)
    settings = {"quant_method": method, "bits": 4, "group_size": GROUP, "version": "gemm"}
    settings |= {"packing_format": "auto_round:auto_awq"} if method == "auto-round" else {}
    check(read(tmp_path, named, settings), "a.weight", expected)


def compressed(bits: int, form: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"num_bits": bits, "type": "int", **weights}}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("n_groups", [1, 4])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("n_out", [N_OUT, 45])
def test_compressed_tensors_packed(
    bits: int, n_groups: int, symmetric: bool, n_out: int, tmp_path: Path
) -> None:
    half = 2 ** (bits - 1)
    codes, scales = codes_of(bits, n_out, N_IN) - half, scales_of(n_out, n_groups)
    zeros = np.zeros(scales.shape, int) if symmetric else codes_of(bits, *scales.shape) - half
    group = np.arange(N_IN) // (N_IN // n_groups)
    named: Named = {
        "a.weight_packed": ("I32", packed(codes + half, bits, 1)),
        "a.weight_scale": ("F16", scales),
    }
    named["a.weight_shape"] = ("I64", np.array([n_out, N_IN]))
    if not symmetric:
        padded = np.concatenate([zeros, np.full((-n_out % (32 // bits), n_groups), -half)])
        named["a.weight_zero_point"] = ("I32", packed(padded + half, bits, 0))
    tensors = read(tmp_path, named, compressed(bits, "pack-quantized"))
    check(tensors, "a.weight", (codes - zeros[:, group]) * scales[:, group])


@pytest.mark.parametrize("shape", [(1,), (N_OUT, 1), (N_OUT, 4)])
def test_compressed_tensors_bytes(shape: tuple[int, ...], tmp_path: Path) -> None:
    codes, scales = codes_of(8, N_OUT, N_IN) - 128, scales_of(*shape)
    named: Named = {"a.weight": ("I8", codes), "a.weight_scale": ("F32", scales)}
    factors = np.repeat(scales, N_IN // 4, axis=1) if shape[-1] == 4 else scales
    tensors = read(tmp_path, named, compressed(8, "int-quantized"))
    check(tensors, "a.weight", codes * factors)


@pytest.mark.parametrize("maker", ["modelopt", "compressed-tensors"])
def test_nvfp4(maker: str, tmp_path: Path) -> None:
    codes = codes_of(4, N_OUT, N_IN)
    scales = np.random.default_rng(2).integers(0x20, 0x60, (N_OUT, N_IN // 16)).astype(np.uint8)
    octets = (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)
    named: Named = {"a.weight_scale": ("F8_E4M3", scales)}
    factor = 0.125
    if maker == "modelopt":
        named |= {"a.weight": ("U8", octets), "a.weight_scale_2": ("F32", np.array(factor))}
        named["a.input_scale"] = ("F32", np.array(3.0))
    else:
        named |= {"a.weight_packed": ("U8", octets), "a.weight_global_scale": ("F32", np.array([1 / factor]))}
        named["a.input_global_scale"] = ("F32", np.array([3.0]))
    expected = np.array(
        [[fp4(codes[o, i]) * e4m3(scales[o, i // 16]) * factor for i in range(N_IN)] for o in range(N_OUT)]
    )
    check(read(tmp_path, named, {"quant_method": maker}), "a.weight", expected)


def test_mxfp4(tmp_path: Path) -> None:
    codes = codes_of(4, 3, N_OUT, N_IN)
    powers = np.random.default_rng(2).integers(120, 132, (3, N_OUT, N_IN // 32)).astype(np.uint8)
    octets = (codes[..., ::2] | codes[..., 1::2] << 4).astype(np.uint8).reshape(3, N_OUT, N_IN // 32, 16)
    expected = np.array(
        [
            [
                [fp4(codes[e, o, i]) * 2.0 ** (int(powers[e, o, i // 32]) - 127) for o in range(N_OUT)]
                for i in range(N_IN)
            ]
            for e in range(3)
        ]
    )
    named: Named = {"x.gate_up_proj_blocks": ("U8", octets), "x.gate_up_proj_scales": ("U8", powers)}
    check(read(tmp_path, named, {"quant_method": "mxfp4"}), "x.gate_up_proj", expected)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_mlx(bits: int, tmp_path: Path) -> None:
    codes = codes_of(bits, N_OUT, N_IN)
    scales, biases = scales_of(N_OUT, 2), -scales_of(N_OUT, 2)
    expected = codes * np.repeat(scales, 32, axis=1) + np.repeat(biases, 32, axis=1)
    named: Named = {"a.weight": ("U32", packed(codes, bits, 1).view(np.uint32)), "a.scales": ("F16", scales)}
    named["a.biases"] = ("F16", biases)
    own = {"group_size": 32, "bits": 3, "a": {"group_size": 32, "bits": bits}}
    for settings in ({"group_size": 32, "bits": bits}, own):
        check(read(tmp_path, named, settings, "quantization"), "a.weight", expected)


I32, U8 = np.zeros((8, 8), np.int32), np.zeros((8, 8), np.uint8)
F = np.ones((8, 8), np.float32)
REFUSED: dict[str, tuple[Named, dict[str, Any] | None, str]] = {
    "bitsandbytes 4 bits": (
        {
            "a.weight": ("U8", U8),
            "a.weight.absmax": ("U8", U8),
            "a.weight.quant_state.bitsandbytes__nf4": ("U8", U8),
        },
        {"quant_method": "bitsandbytes"},
        "bitsandbytes",
    ),
    "bitsandbytes 8 bits": ({"a.weight": ("I8", U8), "a.SCB": ("F32", F)}, None, "bitsandbytes in 8 bits"),
    "HQQ": ({"a.W_q": ("U8", U8)}, {"quant_method": "hqq"}, "HQQ"),
    "AQLM": ({"a.codes": ("I8", U8), "a.codebooks": ("F16", F)}, None, "AQLM"),
    "another": ({"a.weight": ("U8", U8)}, {"quant_method": "vptq"}, "vptq"),
    "gptq, 3 bits": (
        {"a.qweight": ("I32", I32), "a.scales": ("F16", F)},
        {"quant_method": "gptq", "bits": 3},
        "'bits' of the quantization by gptq is 3",
    ),
    "gptq, no bits": (
        {"a.qweight": ("I32", I32), "a.scales": ("F16", F)},
        {"quant_method": "gptq"},
        "by gptq is None",
    ),
    "awq, gemv": (
        {"a.qweight": ("I32", I32), "a.scales": ("F16", F), "a.qzeros": ("I32", I32)},
        {"quant_method": "awq", "bits": 4, "version": "gemv"},
        "'gemv', expected gemm",
    ),
    "compressed-tensors, 24": (
        {"a.weight_packed": ("I32", I32)},
        {"quant_method": "compressed-tensors"},
        "num_bits",
    ),
    "MLX, other modes": (
        {"a.weight": ("U32", I32), "a.scales": ("U8", U8)},
        {"quant_method": "mlx", "mode": "mxfp4"},
        "mlx",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_forms_are_named(name: str, tmp_path: Path) -> None:
    named, settings, message = REFUSED[name]
    with pytest.raises(UnsupportedError, match=message) as caught:
        read(tmp_path, named, settings)
    assert "download it again" not in str(caught.value)


UNFIT: dict[str, tuple[Named, dict[str, Any]]] = {
    "gptq": (
        {"a.qweight": ("I32", I32), "a.scales": ("F16", F), "a.qzeros": ("I32", I32)},
        {"quant_method": "gptq", "bits": 4},
    ),
    "gptq g_idx": (
        {"a.qweight": ("I32", I32), "a.scales": ("F16", F), "a.g_idx": ("I32", np.full(64, 9))},
        {"quant_method": "gptq", "bits": 4},
    ),
    "awq": (
        {"a.qweight": ("I32", I32), "a.scales": ("F16", F), "a.qzeros": ("I32", I32)},
        {"quant_method": "awq", "bits": 4},
    ),
    "compressed": (
        {
            "a.weight_packed": ("I32", I32),
            "a.weight_scale": ("F16", F),
            "a.weight_shape": ("I64", np.array([8, 8])),
        },
        compressed(4, "pack-quantized"),
    ),
    "compressed without shape": (
        {"a.weight_packed": ("I32", I32), "a.weight_scale": ("F16", F)},
        compressed(4, "pack-quantized"),
    ),
    "bytes": (
        {"a.weight": ("I8", U8), "a.weight_scale": ("F16", np.ones((3, 1)))},
        {"quant_method": "compressed-tensors"},
    ),
    "mxfp4": ({"a_blocks": ("U8", U8), "a_scales": ("U8", U8)}, {"quant_method": "mxfp4"}),
    "nvfp4": (
        {"a.weight": ("U8", U8), "a.weight_scale": ("F8_E4M3", U8), "a.weight_scale_2": ("F32", F)},
        {"quant_method": "modelopt"},
    ),
    "bitnet": (
        {"a.weight": ("U8", U8), "a.weight_scale": ("F32", F)},
        {"quant_method": "bitnet"},
    ),
    "mlx": (
        {"a.weight": ("U32", I32), "a.scales": ("F16", F), "a.biases": ("F16", F[:, :3])},
        {"quant_method": "mlx", "bits": 4},
    ),
}


@pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
def test_bitnet_packs_four_rows_to_a_byte(linear_class: str, tmp_path: Path) -> None:
    ternary = np.random.default_rng(2).integers(-1, 2, (8, 6))
    quarters = (ternary.reshape(4, 2, 6) + 1) << np.arange(0, 8, 2)[:, None, None]
    codes = quarters.sum(axis=0).astype(np.uint8)
    named: Named = {"a.weight": ("U8", codes), "a.weight_scale": ("F32", np.array([0.25], np.float32))}
    settings = {"quant_method": "bitnet", "linear_class": linear_class, "quantization_mode": "offline"}
    tensors = read(tmp_path, named, settings)
    factor = 0.25 if linear_class == "autobitlinear" else 4.0
    np.testing.assert_array_equal(tensors.read("a.weight", 1), ternary * np.float32(factor))
    np.testing.assert_array_equal(
        np.concatenate([tensors._packed["a.weight"].rows(i, i + 1) for i in range(8)]), ternary * factor
    )


def test_bitnet_rounds_floats_as_its_layers_do_when_they_are_loaded(tmp_path: Path) -> None:
    values = np.random.default_rng(3).standard_normal((8, 6)).astype(np.float32)
    named: Named = {"a.q_proj.weight": ("F32", values), "b.weight": ("F32", values)}
    tensors = read(tmp_path, named, {"quant_method": "bitnet", "quantization_mode": "online"})
    scale = np.abs(values).mean()
    expected = np.clip(np.rint(values / scale), -1, 1) * scale
    np.testing.assert_allclose(tensors.read("a.q_proj.weight", 1), expected, rtol=1e-6)
    np.testing.assert_array_equal(tensors.read("b.weight", 1), values)


@pytest.mark.parametrize("name", UNFIT)
def test_parts_that_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"do not fit together|is missing, expected beside"):
        read(tmp_path, *UNFIT[name])


def test_a_whole_model_packed_by_gptq_converts(tmp_path: Path) -> None:
    """Linear layers packed, the others as they are: the plan finds all of them by their usual names."""
    from edgellm.convert.recipes import recipe
    from edgellm.convert.source import plan_conversion

    named: Named = {}
    expected = {}
    for name, values in weights().items():
        if not name.endswith("proj.weight"):
            named[name] = ("F32", values)
            continue
        base = name.removesuffix(".weight")
        codes, scales = codes_of(4, values.shape[1], len(values)), scales_of(1, len(values)) / 100
        named |= {f"{base}.qweight": ("I32", packed(codes, 4, 0)), f"{base}.scales": ("F32", scales)}
        named[f"{base}.qzeros"] = ("I32", packed(np.full((1, len(values)), 7), 4, 1))
        expected[name] = ((codes - 8) * scales).T.astype(np.float32)
    tensors = read(tmp_path, named, {"quant_method": "gptq", "bits": 4})
    for name, values in expected.items():
        np.testing.assert_allclose(tensors.read(name, 1), values, rtol=1e-6)
    plan = plan_conversion(Checkpoint(tmp_path), recipe("F32"), threads=1)
    down = next(tensor for tensor in plan.tensors if tensor.name == "blk.1.ffn_down.weight")
    written = np.concatenate(list(down.source.pieces()))
    np.testing.assert_allclose(written, expected["model.layers.1.mlp.down_proj.weight"], rtol=1e-6)
