"""A key that a config leaves out means what transformers' config class says of it.

The values are those of the classes of transformers 5.24, for keys that change a file and that some published
config leaves out.
"""

from __future__ import annotations

from typing import Any

import pytest

from edgellm.families.registry import plan
from tests.support.references import checkpoint

YARN = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
YARN |= {"original_max_position_embeddings": 4096}
GEMMA4 = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
}
CLASS_DEFAULTS: tuple[tuple[str, str, Any], ...] = (
    ("cohere2", "sliding_window", 4096),
    ("cohere2", "logit_scale", 0.0625),
    ("ernie4_5", "rope_parameters", {"rope_type": "default", "rope_theta": 500000.0}),
    ("exaone4", "sliding_window", 4096),
    ("gemma2", "attn_logit_softcapping", 50.0),
    ("gemma2", "final_logit_softcapping", 30.0),
    ("gemma2", "query_pre_attn_scalar", 256),
    ("gemma2", "sliding_window", 4096),
    ("gemma3", "query_pre_attn_scalar", 256),
    ("gemma3", "sliding_window", 4096),
    ("gemma4", "rope_parameters", GEMMA4),
    ("gemma4", "sliding_window", 512),
    ("gpt_oss", "rope_scaling", YARN),
    ("gpt_oss", "rope_theta", 150000.0),
    ("gpt_oss", "sliding_window", 128),
    ("granite", "attention_multiplier", 1.0),
    ("granite", "embedding_multiplier", 1.0),
    ("granite", "logits_scaling", 1.0),
    ("granite", "residual_multiplier", 1.0),
    ("lfm2", "rope_parameters", {"rope_type": "default", "rope_theta": 1000000.0}),
    ("mistral", "sliding_window", 4096),
    ("mixtral", "rope_theta", 1000000.0),
    ("phi3", "original_max_position_embeddings", 4096),
    ("smollm3", "rope_parameters", {"rope_type": "default", "rope_theta": 2000000.0}),
)


@pytest.mark.parametrize(("name", "key", "value"), CLASS_DEFAULTS)
def test_a_missing_key_means_the_default_of_the_class(name: str, key: str, value: Any) -> None:
    config, source = checkpoint(name)
    inner = config.get("text_config", config)
    shapes = {tensor: array.shape for tensor, array in source.items()}
    given = {other: old for other, old in inner.items() if other != key}
    if key == "rope_theta":
        given.pop("rope_parameters", None)
    plans = [plan(given | more, shapes) for more in ({}, {key: value})]
    assert plans[0].metadata == plans[1].metadata
    assert [tensor.name for tensor in plans[0].tensors] == [tensor.name for tensor in plans[1].tensors]
    if (name, key) != ("gemma4", "rope_parameters"):
        other = value * 2 if isinstance(value, (int, float)) else {"rope_type": "default", "rope_theta": 7.0}
        assert plan(given | {key: other}, shapes).metadata != plans[0].metadata


@pytest.mark.parametrize("key", ["attn_logit_softcapping", "final_logit_softcapping"])
def test_null_is_no_default(key: str) -> None:
    config, source = checkpoint("gemma2")
    planned = plan(config | {key: None}, {tensor: array.shape for tensor, array in source.items()})
    # llama.cpp divides by the cap: a large one changes nothing.
    assert planned.metadata[f"gemma2.{key}"] > 1e29


def test_sliding_layers_of_qwen() -> None:
    config, source = checkpoint("qwen2")
    given = {
        key: value for key, value in config.items() if key not in ("sliding_window", "max_window_layers")
    }
    given = given | {"use_sliding_window": True, "layer_types": None}
    shapes = {tensor: array.shape for tensor, array in source.items()}
    class_says = {"sliding_window": 4096, "max_window_layers": 28}
    assert plan(given, shapes).metadata == plan(given | class_says, shapes).metadata
