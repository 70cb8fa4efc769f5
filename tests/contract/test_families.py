"""Every family against the reference implementation's logits, and every kind of wrong file."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from edgellm.errors import EdgeLLMError, ModelError, UnsupportedError
from edgellm.families import FAMILIES, build
from edgellm.families.registry import family
from edgellm.gguf.reader import GGUFFile
from edgellm.program import from_text, to_text
from edgellm.program.interpreter import Interpreter
from tests.support.references import (
    OFFICIAL,
    float_weights,
    official_gguf,
    reference,
    shapes,
    unpacked,
)

__all__ = ["unpacked"]


@pytest.mark.parametrize("name", OFFICIAL)
def test_logits_match_the_reference(name: str, unpacked: Path) -> None:
    expected = reference(name)
    with GGUFFile.open(official_gguf(name, unpacked)) as file:
        program = build(file.metadata, shapes(file))
        weights = float_weights(file)
    assert from_text(to_text(program)) == program
    expected.check(Interpreter(program, weights).logits(expected.token_ids.tolist()))


@pytest.mark.parametrize("architecture", sorted(FAMILIES))
def test_registry_names_the_family_that_serves_the_architecture(architecture: str) -> None:
    record = family(architecture)
    module = importlib.import_module(f"edgellm.families.{FAMILIES[architecture]}")
    assert module.FAMILY is record


def _parts(name: str, unpacked: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    with GGUFFile.open(official_gguf(name, unpacked)) as file:
        return dict(file.metadata), shapes(file)


CASES = ("llama", "gemma3", "lfm2", "mamba2", "mixtral", "stablelm")


@pytest.mark.parametrize("name", CASES)
def test_each_missing_tensor_is_named(name: str, unpacked: Path) -> None:
    metadata, tensors = _parts(name, unpacked)
    for missing in tensors:
        rest = {key: shape for key, shape in tensors.items() if key != missing}
        if missing == "output.weight" or (missing.endswith(".bias") and "ssm_dt" not in missing):
            build(metadata, rest)  # a tied head; a bias that the family may do without
        else:
            with pytest.raises(ModelError, match=re.escape(repr(missing))):
                build(metadata, rest)


@pytest.mark.parametrize("name", CASES)
def test_each_wrong_shape_is_named(name: str, unpacked: Path) -> None:
    metadata, tensors = _parts(name, unpacked)
    for wrong, shape in tensors.items():
        for bad in ((*shape[:-1], shape[-1] + 1), (*shape, 2)):
            if wrong == "token_embd.weight" and len(bad) == 2:
                continue
            with pytest.raises(ModelError, match=wrong.replace(".", r"\.")):
                build(metadata, tensors | {wrong: bad})


def test_unknown_tensor_is_refused(unpacked: Path) -> None:
    metadata, tensors = _parts("llama", unpacked)
    with pytest.raises(UnsupportedError, match=r"blk\.0\.attn_q_norm\.weight.*llama family does not use"):
        build(metadata, tensors | {"blk.0.attn_q_norm.weight": (16,)})


def test_unknown_architecture_lists_the_supported_ones(unpacked: Path) -> None:
    metadata, tensors = _parts("llama", unpacked)
    with pytest.raises(UnsupportedError, match=r"'nonesuch'.*supported: .*gemma3.*llama.*qwen3"):
        build(metadata | {"general.architecture": "nonesuch"}, tensors)
    with pytest.raises(ModelError, match=r"general\.architecture"):
        build({}, tensors)


@pytest.mark.parametrize(
    "key",
    [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
    ],
)
def test_missing_metadata_is_named(key: str, unpacked: Path) -> None:
    metadata, tensors = _parts("llama", unpacked)
    del metadata[f"llama.{key}"]
    with pytest.raises(ModelError, match=rf"'llama\.{key}' is missing"):
        build(metadata, tensors)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("block_count", 0),
        ("block_count", 2**40),
        ("block_count", "2"),
        ("block_count", True),
        ("block_count", 2.5),
        ("embedding_length", -64),
        ("embedding_length", 65),
        ("context_length", 0),
        ("feed_forward_length", [128]),
        ("feed_forward_length", [128, -1]),
        ("attention.head_count", 0),
        ("attention.head_count", 3),
        ("attention.head_count_kv", 3),
        ("attention.key_length", 2**40),
        ("attention.layer_norm_rms_epsilon", float("nan")),
        ("attention.layer_norm_rms_epsilon", 0.0),
        ("rope.freq_base", float("inf")),
        ("rope.freq_base", -1.0),
        ("rope.dimension_count", 15),
        ("rope.dimension_count", 2**40),
        ("rope.scaling.type", 7),
        ("attention.sliding_window", -1),
        ("expert_count", 2**50),
    ],
)
def test_bad_metadata_is_refused(key: str, value: object, unpacked: Path) -> None:
    metadata, tensors = _parts("llama", unpacked)
    with pytest.raises(ModelError, match=r"llama\.|tensor 'blk|attention"):
        build(metadata | {f"llama.{key}": value}, tensors)


@pytest.mark.parametrize(
    ("key", "value"), [("rope.scaling.type", "ntk"), ("attention.temperature_scale", 0.1)]
)
def test_unsupported_metadata_is_refused(key: str, value: object, unpacked: Path) -> None:
    metadata, tensors = _parts("llama", unpacked)
    with pytest.raises(UnsupportedError, match=rf"llama\.{key}"):
        build(metadata | {f"llama.{key}": value}, tensors)


def test_thirty_layers_build_in_few_calls() -> None:
    """A cold start builds the program once: calls of Python functions grow with the layers, and are few."""
    n_layers, width = 30, 576
    tensors: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (49152, width),
        "output_norm.weight": (width,),
    }
    sizes = {
        "attn_norm": (width,),
        "attn_q": (576, width),
        "attn_k": (192, width),
        "attn_v": (192, width),
        "attn_output": (width, 576),
        "ffn_norm": (width,),
        "ffn_gate": (1536, width),
        "ffn_up": (1536, width),
        "ffn_down": (width, 1536),
    }
    for i in range(n_layers):
        tensors |= {f"blk.{i}.{part}.weight": shape for part, shape in sizes.items()}
    metadata = {
        "general.architecture": "llama",
        "llama.block_count": n_layers,
        "llama.context_length": 8192,
        "llama.embedding_length": width,
        "llama.feed_forward_length": 1536,
        "llama.attention.head_count": 9,
        "llama.attention.head_count_kv": 3,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }
    n_calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal n_calls
        n_calls += event == "call"

    sys.setprofile(count)
    try:
        to_text(build(metadata, tensors))
    finally:
        sys.setprofile(None)
    assert n_calls < 800 * n_layers


JUNK: tuple[object, ...] = (
    True,
    -1,
    0,
    1,
    3,
    2**40,
    0.5,
    float("nan"),
    "junk",
    [],
    [7],
    [0, 0, 0, 0, 0, 0, 0],
)


@pytest.mark.parametrize("name", OFFICIAL)
def test_no_metadata_value_ends_in_a_crash(name: str, unpacked: Path) -> None:
    metadata, tensors = _parts(name, unpacked)
    for key in metadata:
        if not key.startswith(metadata["general.architecture"]):
            continue
        for junk in JUNK:
            try:
                program = build(metadata | {key: junk}, tensors)
            except EdgeLLMError:
                continue
            assert program.ops


@pytest.mark.parametrize("name", OFFICIAL)
def test_no_tensor_shape_ends_in_a_crash(name: str, unpacked: Path) -> None:
    metadata, tensors = _parts(name, unpacked)
    for key in tensors:
        for junk in ((), (0,), (1, 0), (2**40, 64), (1, 1, 1, 1, 1)):
            with pytest.raises(ModelError):
                build(metadata, tensors | {key: junk})
