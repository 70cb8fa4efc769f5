"""Cache types: the choice of "auto", and the bytes that a cache takes."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from edgellm import _native
from edgellm.engine.kv_types import KV_TYPES, cached_bytes
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.planning import plan
from edgellm.errors import UsageError
from edgellm.gguf.reader import GGUFFile
from edgellm.program.ops import CacheSpec
from tests.support.references import converted_gguf


def kept(path: Path, **options: str) -> str:
    with GGUFFile.open(path) as file:
        return plan(file, LoadOptions(**options)).kv_type  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"isa": "scalar"}, "f16"),
        ({"backend": "interpreter"}, "f16"),
        ({"backend": "llama_cpp"}, "f16"),
        ({"kv_type": "q8_0"}, "q8_0"),
        ({"kv_type": "i16", "isa": "scalar"}, "i16"),
    ],
)
def test_the_faster_type_of_16_bits_unless_one_is_named(
    tmp_path: Path, options: dict[str, str], expected: str
) -> None:
    assert kept(converted_gguf("llama", tmp_path, "Q8_0"), **options) == expected


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="instruction sets of x86-64"
)
@pytest.mark.parametrize("isa", ["avx2", "avxvnni", "avx512vnni"])
def test_integers_where_one_instruction_multiplies_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isa: str
) -> None:
    path = converted_gguf("llama", tmp_path, "Q8_0")
    assert kept(path, isa=isa) == "i16"
    monkeypatch.setenv("EDGELLM_ISA", isa)
    assert kept(path) == "i16"
    monkeypatch.setenv("EDGELLM_ISA", "scalar")
    assert kept(path) == "f16"


def test_float_weights_keep_their_digits(tmp_path: Path) -> None:
    assert kept(converted_gguf("llama", tmp_path, "F32")) == "f32"


@pytest.mark.parametrize("name", [name for name, kv_type in KV_TYPES.items() if kv_type.native_only])
def test_some_types_need_the_native_engine(name: str) -> None:
    with pytest.raises(UsageError, match="use f16"):
        LoadOptions(kv_type=name, backend="llama_cpp")
    assert LoadOptions(kv_type=name).kv_type == name


def test_an_unknown_type_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=f"'q9_9'; the types are auto, {', '.join(KV_TYPES)}"):
        LoadOptions(kv_type="q9_9")


def test_the_native_engine_has_the_same_types() -> None:
    assert sorted(_native.kv_types()) == sorted(KV_TYPES)
    assert _native.faster_kv_type("scalar") in KV_TYPES


def test_bytes_of_a_token() -> None:
    cache = CacheSpec(n_kv_heads=2, key_dim=64, value_dim=32)
    sizes = {kv_type: cached_bytes(cache, kv_type) for kv_type in KV_TYPES}
    assert sizes == {"f16": 384, "f32": 768, "i16": 384, "q8_0": 204}
