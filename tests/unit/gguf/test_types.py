"""The table of formats: its rows against the `gguf` package, and against each other."""

from __future__ import annotations

import gguf
import pytest

from edgellm.gguf.file_types import file_type_name
from edgellm.gguf.types import LAYOUTS, GGMLType

each = pytest.mark.parametrize("kind", sorted(GGMLType), ids=lambda kind: kind.name)
MIXES = [mix for kind in GGMLType for mix in kind.mixes]


@each
def test_numbers_and_sizes_are_those_of_the_gguf_package(kind: GGMLType) -> None:
    oracle = gguf.GGMLQuantizationType(int(kind))
    assert oracle.name == kind.name
    if kind is GGMLType.Q8_1:  # the package counts its scales as float32; ggml's block has two halves
        return
    assert LAYOUTS[kind] == gguf.GGML_QUANT_SIZES[oracle] == (kind.block_size, kind.block_bytes)


def test_file_types_are_those_of_the_gguf_package() -> None:
    oracle = {int(mix): mix.name.removeprefix("ALL_").removeprefix("MOSTLY_") for mix in gguf.LlamaFileType}
    assert len({mix.number for mix in MIXES}) == len(MIXES)
    for mix in MIXES:
        assert oracle[mix.number] == file_type_name(mix.number) == mix.name


def test_no_number_of_another_kind_is_a_file_type() -> None:
    assert file_type_name(1024) is None
    assert file_type_name("Q4_0") is None
    assert file_type_name(None) is None


@each
def test_mixes_that_are_written_have_an_encoder(kind: GGMLType) -> None:
    assert kind.has_encoder or not any(mix.recipe for mix in kind.mixes)


@each
def test_the_format_of_smaller_blocks_has_smaller_blocks_and_an_encoder(kind: GGMLType) -> None:
    if kind.smaller:
        smaller = GGMLType[kind.smaller]
        assert smaller.block_size < kind.block_size
        assert smaller.has_encoder


def test_an_unknown_number_is_no_member() -> None:
    with pytest.raises(ValueError, match="4"):
        GGMLType(4)
