"""Sizes and settings outside the reference checkpoints: computed correctly, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from edgellm.errors import UnsupportedError
from edgellm.families import build, plan
from edgellm.program.interpreter import Interpreter
from tests.support.variants import N_ROWS, N_VOCAB, PATH, Variant, number, token_ids, variants, weights

with np.load(PATH) as _arrays:
    NAMES = [case["name"] for case in json.loads(str(_arrays["cases"]))]


def _check(variant: Variant, config: dict[str, Any]) -> None:
    source = dict(weights(variant.shapes, variant.seed))
    planned = plan(config, variant.shapes).completed(number(source))
    made = {
        tensor.name: np.ascontiguousarray(tensor.make.apply([source[key] for key in tensor.sources]))
        for tensor in planned.tensors
    }
    metadata = {"general.architecture": planned.architecture, **planned.metadata}
    # As long as the short factors of LongRoPE are for.
    program = build(metadata, {key: array.shape for key, array in made.items()}, context=64)
    logits = Interpreter(program, made).logits(token_ids(variant.seed))[-N_ROWS:]
    np.testing.assert_allclose(logits, variant.logits, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_variant_gives_the_logits_of_transformers(name: str) -> None:
    variant = variants()[name]
    _check(variant, variant.config)
    _check(variant, variant.saved)


def test_minicpm_is_granite_with_scales_by_other_names() -> None:
    variant = variants()["granite-as_minicpm"]
    n_layers, width = variant.config["num_hidden_layers"], variant.config["hidden_size"]
    scales = {"scale_emb": 12, "scale_depth": 0.7 * n_layers**0.5, "dim_model_base": width // 2}
    config = {
        key: value for key, value in variant.config.items() if not key.endswith(("multiplier", "scaling"))
    }
    config |= {"model_type": "minicpm", "tie_word_embeddings": "lm_head.weight" not in variant.shapes}
    _check(variant, config | scales)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("olmo-small", {"clip_qkv": 8.0}, "'clip_qkv'"),
        ("olmoe-small", {"clip_qkv": 8.0}, "'clip_qkv'"),
        ("phi-small", {"qk_layernorm": True}, "'qk_layernorm'"),
        ("falcon_h1-small", {"mamba_norm_before_gate": True}, "'mamba_norm_before_gate'"),
        ("falcon_h1-small", {"projectors_bias": True}, "'projectors_bias'"),
        ("nemotron_h-small", {"hybrid_override_pattern": "MXM*-"}, "layers of kind 'X'"),
        ("glm4_moe_lite-small", {"mlp_layer_types": ["sparse", "dense", "sparse"]}, "'mlp_layer_types'"),
        ("hunyuan_moe-small", {"moe_topk": [1, 2, 2]}, "'moe_topk'"),
        (
            "olmo3-small",
            {"rope_parameters": {"sliding_attention": {"rope_theta": 7.0}, "full_attention": {}}},
            "rotation of sliding",
        ),
        ("mpt-small", {"attn_config": {"clip_qkv": 6.0}}, "'clip_qkv'"),
        ("mpt-small", {"attn_config": {"alibi": False}}, "'alibi'"),
        ("bloom-small", {"apply_residual_connection_post_layernorm": True}, "'apply_residual"),
        ("opt-small", {"activation_function": "silu"}, "'activation_function'"),
        ("phimoe-small", {"num_experts_per_tok": 3}, "'num_experts_per_tok'"),
        ("gemma2-size", {"use_bidirectional_attention": True}, "'use_bidirectional_attention'"),
        ("deepseek_v2-eps", {"norm_topk_prob": True}, "'norm_topk_prob'"),
        ("qwen3-biases", {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "full_attention"),
        (
            "gemma3-size",
            {"rope_parameters": {"full_attention": {}, "sliding_attention": {"rope_type": "linear"}}},
            "'linear' of sliding_attention",
        ),
        (
            "gemma4-capped",
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}, "sliding_attention": {}}},
            "'yarn' of full_attention",
        ),
        ("gpt2-untied", {"add_cross_attention": True}, "'add_cross_attention'"),
        ("gpt2-untied", {"scale_attn_by_inverse_layer_idx": True}, "'scale_attn_by_inverse_layer_idx'"),
        ("mamba2-groups", {"time_step_limit": [0.01, 0.5]}, "'time_step_limit'"),
        ("phi3-partial", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "'yarn'"),
    ],
)
def test_setting_that_is_not_implemented_is_refused_by_name(
    name: str, change: dict[str, Any], message: str
) -> None:
    variant = variants()[name]
    with pytest.raises(UnsupportedError, match=message):
        plan(variant.config | change, variant.shapes)


def test_keys_that_published_configs_leave_out_mean_what_transformers_takes_them_for() -> None:
    config = {
        "model_type": "gemma3",
        "text_config": {
            "model_type": "gemma3_text",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 1,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
            "sliding_window": 16,
        },
    }
    layer = "language_model.model.layers.0"
    shapes: dict[str, tuple[int, ...]] = {"language_model.model.embed_tokens.weight": (N_VOCAB, 64)}
    norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
    shapes |= {f"{layer}.{name}_layernorm.weight": (64,) for name in norms}
    shapes |= {f"{layer}.self_attn.{name}_norm.weight": (256,) for name in "qk"}
    shapes |= {
        f"{layer}.self_attn.{name}_proj.weight": (256 * n, 64)
        for name, n in zip("qkv", (8, 4, 4), strict=True)
    }
    shapes |= {f"{layer}.mlp.{name}_proj.weight": (96, 64) for name in ("gate", "up")}
    shapes |= {f"{layer}.self_attn.o_proj.weight": (64, 2048), f"{layer}.mlp.down_proj.weight": (64, 96)}
    metadata = plan(config, shapes | {"language_model.model.norm.weight": (64,)}).metadata
    assert metadata["gemma3.attention.head_count"] == 8
    assert metadata["gemma3.attention.key_length"] == 256
    assert metadata["gemma3.rope.freq_base"] == 1e6
    assert metadata["gemma3.rope.freq_base_swa"] == 1e4
    assert metadata["gemma3.rope.scaling.factor"] == 8.0
