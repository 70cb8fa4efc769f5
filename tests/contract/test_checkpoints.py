"""Every family's checkpoint side: what a plan makes of a checkpoint gives the reference's logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm.errors import EdgeLLMError, ModelError, UnsupportedError
from edgellm.families import FAMILIES, build, model_types, plan
from edgellm.families.checkpoint import CheckpointPlan
from edgellm.families.registry import family
from edgellm.gguf.reader import GGUFFile
from edgellm.program.interpreter import Interpreter
from tests.support.references import (
    CHECKPOINTS_ONLY,
    OFFICIAL,
    checkpoint,
    float_weights,
    official_gguf,
    reference,
    unpacked,
)

__all__ = ["unpacked"]

Weights = dict[str, NDArray[np.float32]]


def _converted(name: str) -> tuple[CheckpointPlan, Weights]:
    config, source = checkpoint(name)
    planned = plan(config, {key: array.shape for key, array in source.items()})
    weights = {}
    for tensor in planned.tensors:
        weights[tensor.name] = np.ascontiguousarray(
            tensor.make.apply([source[key] for key in tensor.sources])
        )
        assert weights[tensor.name].shape == tensor.shape, tensor.name
    return planned, weights


@pytest.mark.parametrize("name", [*OFFICIAL, *CHECKPOINTS_ONLY])
def test_planned_file_gives_the_reference_logits(name: str) -> None:
    expected = reference(name)
    planned, weights = _converted(name)
    metadata = {"general.architecture": planned.architecture, **planned.metadata}
    program = build(metadata, {key: array.shape for key, array in weights.items()})
    expected.check(Interpreter(program, weights).logits(expected.token_ids.tolist()))


@pytest.mark.parametrize("name", OFFICIAL)
def test_planned_file_is_the_official_one(name: str, unpacked: Path) -> None:
    planned, weights = _converted(name)
    with GGUFFile.open(official_gguf(name, unpacked)) as file:
        official = float_weights(file)
        prefix = planned.architecture + "."
        metadata = {key: value for key, value in file.metadata.items() if key.startswith(prefix)}
    assert weights.keys() == official.keys()
    for key, array in official.items():
        assert weights[key].shape == array.shape, key
        # exp and the rotation's factors may differ in the last bit.
        np.testing.assert_allclose(weights[key], array, rtol=3e-7, atol=0, err_msg=key)
    assert planned.metadata.keys() == metadata.keys()
    for key, value in metadata.items():
        ours = planned.metadata[key]
        assert np.float32(ours) == np.float32(value) if isinstance(value, float) else ours == value, key


def test_each_model_type_belongs_to_one_family_and_each_family_has_one() -> None:
    listed = [name for found in FAMILIES for name in family(found).checkpoint.model_types]
    assert sorted(listed) == sorted(model_types())
    # The other ones of a model type are chosen by its config.
    alone = {name for name in FAMILIES if family(name).checkpoint.model_types}
    assert set(model_types().values()) == alone
    assert all(family(name).checkpoint.mixture in model_types() for name in set(FAMILIES) - alone)
    assert all(set(family(f).checkpoint.defaults) <= set(family(f).checkpoint.model_types) for f in FAMILIES)


def _plan(config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> CheckpointPlan:
    return plan(config, shapes)


@pytest.mark.parametrize("name", ["deepseek_v2", "gpt2", "phi3", "qwen3_5"])
def test_each_missing_tensor_is_named(name: str) -> None:
    config, source = checkpoint(name)
    shapes = {key: array.shape for key, array in source.items()}
    for missing in shapes:
        if missing.endswith(".bias"):
            continue
        with pytest.raises(ModelError, match=missing.replace(".", r"\.")):
            _plan(config, {key: shape for key, shape in shapes.items() if key != missing})


def test_extra_tensor_is_named() -> None:
    config, source = checkpoint("phi3")
    shapes = {key: array.shape for key, array in source.items()}
    with pytest.raises(ModelError, match=r"model\.layers\.0\.self_attn\.q_norm\.weight.*'phi3'"):
        _plan(config, shapes | {"model.layers.0.self_attn.q_norm.weight": (16,)})


def test_wrong_shape_is_named_by_the_file_it_would_make() -> None:
    config, source = checkpoint("phi3")
    shapes = {key: array.shape for key, array in source.items()}
    with pytest.raises(ModelError, match=r"blk\.1\.attn_qkv\.weight.*\(127, 64\).*\(128, 64\)"):
        _plan(config, shapes | {"model.layers.1.self_attn.qkv_proj.weight": (127, 64)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "nonesuch"}, "'nonesuch'.*supported: .*phi3"),
        ({"hidden_act": "relu"}, "'hidden_act' is 'relu'"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "'spiral'"),
    ],
)
def test_unsupported_config_is_refused(change: dict[str, Any], message: str) -> None:
    config, source = checkpoint("phi3")
    with pytest.raises(UnsupportedError, match=message):
        _plan(config | change, {key: array.shape for key, array in source.items()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "has no 'hidden_size'"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' is 0"),
        ({"num_hidden_layers": 10**9}, "'num_hidden_layers' is 1000000000"),
        ({"num_attention_heads": "4"}, "'num_attention_heads' is '4', expected an integer"),
        ({"rms_norm_eps": float("nan")}, "'rms_norm_eps' is nan"),
        ({"rope_theta": -1}, "'rope_theta' is -1"),
        ({"rope_scaling": 7}, "'rope_scaling' is 7"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "long_factor"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}}, "has 1 values"),
    ],
)
def test_bad_config_is_refused(change: dict[str, Any], message: str) -> None:
    config, source = checkpoint("phi3")
    with pytest.raises(ModelError, match=message):
        _plan(config | change, {key: array.shape for key, array in source.items()})


def test_text_model_inside_a_multimodal_checkpoint() -> None:
    config, source = checkpoint("phi3")
    shapes = {key.replace("model.", "model.language_model.", 1): a.shape for key, a in source.items()}
    shapes["model.visual.patch_embed.weight"] = (3, 3)
    nested = {"model_type": "phi3_outer", "text_config": config}
    assert [t.name for t in _plan(nested, shapes).tensors] == [
        t.name for t in _plan(config, {key: a.shape for key, a in source.items()}).tensors
    ]


JUNK: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    3,
    2**40,
    0.5,
    float("inf"),
    "junk",
    [],
    [7],
    {},
    {"full_attention": 3},
)


@pytest.mark.parametrize("name", [*OFFICIAL, *CHECKPOINTS_ONLY])
def test_no_config_value_ends_in_a_crash(name: str) -> None:
    config, source = checkpoint(name)
    shapes = {key: array.shape for key, array in source.items()}
    for key in config:
        for junk in JUNK:
            try:
                planned = _plan(config | {key: junk}, shapes)
            except EdgeLLMError:
                continue
            assert planned.tensors
