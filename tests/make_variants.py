"""Adds to tests/data/variants.npz the cases that it lacks; needs torch and transformers.

Run as `python -m tests.make_variants REFERENCES [CASE...]`, where REFERENCES has a folder with a config.json
for each base that tests/variant_configs.py does not have. A CASE is computed anew.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from tests.support.variants import N_ROWS, N_VOCAB, PATH, token_ids, weights
from tests.variant_configs import CONFIGS, MINISTRAL_ROPE

Change = dict[str, Any]
SIZE: Change = {
    "hidden_size": 96,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "intermediate_size": 160,
    "num_hidden_layers": 5,
}
YARN: Change = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
LLAMA3: Change = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_MSCALE = YARN | {"mscale": 1.0, "mscale_all_dim": 0.5, "beta_fast": 16.0, "beta_slow": 2.0}
YARN_FACTOR = YARN | {"attention_factor": 1.3, "truncate": False}
LINEAR: Change = {"rope_type": "linear", "factor": 4.0}
LONGROPE: Change = {
    "type": "longrope",
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [1.5 + 0.3 * i for i in range(8)],
}
WINDOW: Change = {"sliding_window": 8, "use_sliding_window": True}
# Families whose rotation can be scaled.
STRETCHED = (
    "cohere2",
    "ernie4_5",
    "exaone4",
    "gemma2",
    "glm4",
    "gpt_neox",
    "gpt_oss",
    "granite",
    "hunyuan",
    "lfm2",
    "llama",
    "olmo2",
    "qwen2",
    "qwen3",
    "qwen3_5",
    "qwen3_moe",
    "qwen3_next",
    "smollm3",
    "stablelm",
    "starcoder2",
)
EPS = dict.fromkeys(
    ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"), 1e-2
)
CASES: list[tuple[str, str, Change]] = [
    *((case, "llama3", {"rope_scaling": LLAMA3}) for case in STRETCHED),
    *((case, "yarn", {"rope_scaling": YARN_MSCALE}) for case in STRETCHED),
    *((case, "linear", {"rope_scaling": LINEAR}) for case in ("gemma2", "stablelm", "qwen3")),
    *((case, "yarn_factor", {"rope_scaling": YARN_FACTOR}) for case in ("gemma2", "gpt_oss", "mistral")),
    ("gpt_oss", "yarn_rounded", {"rope_scaling": YARN}),
    ("phi3", "longrope", {"rope_scaling": LONGROPE, "original_max_position_embeddings": 64}),
    ("phi3", "partial", {"partial_rotary_factor": 0.5, "sliding_window": 8}),
    ("gpt_neox", "base", {"rotary_emb_base": 500000.0}),
    *((case, "size", SIZE) for case in ("exaone4", "gemma2", "gemma3", "glm4", "olmo2", "qwen3_moe")),
    *((case, "wide_heads", {"head_dim": 32}) for case in ("granite", "lfm2", "olmo2", "phi3", "qwen2")),
    *((case, "wide_heads", {"head_dim": 32}) for case in ("smollm3", "starcoder2", "llama3")),
    *((case, "window", WINDOW | {"max_window_layers": 1}) for case in ("qwen2", "qwen3")),
    *((case, "window", WINDOW) for case in ("qwen3_moe", "mistral", "starcoder2")),
    ("smollm3", "window", WINDOW | {"no_rope_layers": [0, 1, 1, 0]}),
    ("smollm3", "interval", {"no_rope_layers": None, "no_rope_layer_interval": 2}),
    *((case, "window", {"sliding_window": 8, "num_hidden_layers": 5}) for case in ("cohere2", "gemma2")),
    ("gemma2", "no_cap", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    ("gemma3", "capped", {"final_logit_softcapping": 3.0, "query_pre_attn_scalar": 37}),
    *((case, "biases", {"attention_bias": True, "mlp_bias": True}) for case in ("llama", "granite", "qwen3")),
    ("hunyuan", "biases", {"attention_bias": True}),
    ("deepseek_v2", "eps", EPS | {"q_lora_rank": 24}),
    ("deepseek_v2", "groups", {"topk_method": "group_limited_greedy", "n_group": 2, "topk_group": 1}),
    ("qwen3_moe", "sparse", {"decoder_sparse_step": 2, "norm_topk_prob": False}),
    ("qwen3_next", "sparse", {"mlp_only_layers": [0], "norm_topk_prob": False}),
    ("qwen3_next", "heads", {"linear_key_head_dim": 32, "linear_value_head_dim": 16}),
    ("qwen3_5", "heads", {"linear_num_key_heads": 1, "linear_num_value_heads": 4}),
    ("gpt2", "untied", {"tie_word_embeddings": False, "n_inner": 200}),
    ("stablelm", "parallel", {"use_parallel_residual": True, "qk_layernorm": True}),
    ("gpt_neox", "sequential", {"use_parallel_residual": False, "rotary_pct": 0.5}),
    ("mamba2", "groups", {"n_groups": 2, "use_bias": True, "use_conv_bias": False}),
    ("gemma4", "capped", {"final_logit_softcapping": 3.0}),
    ("mixtral", "one_expert", {"num_experts_per_tok": 1, "sliding_window": 8}),
    ("deepseek_v2", "yarn", {"rope_scaling": YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}}),
    ("deepseek_v2", "plain", {"q_lora_rank": None, "v_head_dim": 8, "rope_scaling": YARN}),
    ("exaone4", "all_full", {"sliding_window": 8, "layer_types": ["full_attention"] * 4}),
    ("gpt_oss", "all_local", {"sliding_window": 8, "layer_types": ["sliding_attention"] * 4}),
    ("gemma4", "shared_values", {"attention_k_eq_v": True}),
    *((case, "small", {}) for case in CONFIGS),
    *((case, "llama3", {"rope_scaling": LLAMA3}) for case in ("arcee", "exaone", "qwen2_moe", "seed_oss")),
    *((case, "llama3", {"rope_scaling": LLAMA3}) for case in ("granite_moe", "olmoe", "falcon_h1", "phi")),
    *((case, "yarn", {"rope_scaling": YARN_MSCALE}) for case in ("ernie4_5_moe", "olmo3", "glm4_moe")),
    *((case, "size", SIZE) for case in ("gemma", "glm4_moe", "olmo", "olmo3", "qwen2_moe", "seed_oss")),
    *((case, "size", SIZE) for case in ("granite_moe", "phi")),
    ("lfm2_moe", "size", SIZE | {"layer_types": ["full_attention", "conv"] * 2 + ["conv"]}),
    ("arcee", "biases", {"attention_bias": True, "mlp_bias": True, "head_dim": 32}),
    ("ernie4_5_moe", "interval", {"moe_layer_interval": 2, "num_hidden_layers": 5, "moe_layer_end_index": 3}),
    ("ernie4_5_moe", "alone", {"moe_num_shared_experts": 0, "use_bias": True, "moe_layer_start_index": 0}),
    ("exaone", "tied", {"tie_word_embeddings": True}),
    ("falcon_h1", "plain", {"mamba_rms_norm": False, "tie_word_embeddings": True, "mamba_n_groups": 1}),
    ("glm4_moe", "normed", {"use_qk_norm": True, "n_group": 2, "topk_group": 1, "norm_topk_prob": False}),
    ("glm4_moe_lite", "full_query", {"q_lora_rank": None, "tie_word_embeddings": True}),
    ("ministral3", "wide", {"head_dim": 32, "rope_parameters": MINISTRAL_ROPE | {"factor": 4.0}}),
    ("nemotron_h_moe", "latent", {"moe_latent_size": 16, "norm_topk_prob": False, "n_group": 1}),
    ("granite_hybrid", "dense", {"num_local_experts": 0, "mamba_n_groups": 1}),
    ("granite_hybrid", "rotated", {"position_embedding_type": "rope"}),
    (
        "granite_hybrid",
        "no_mixer",
        {"num_local_experts": 0, "layer_types": ["attention"] * 3} | {"position_embedding_type": "rope"},
    ),
    (
        "granite_hybrid",
        "no_mixer_experts",
        {"layer_types": ["attention"] * 3} | {"position_embedding_type": "rope"},
    ),
    ("hunyuan_moe", "listed", {"moe_topk": [3, 3, 3], "attention_bias": True}),
    ("lfm2_moe", "raw", {"norm_topk_prob": False, "use_expert_bias": False, "routed_scaling_factor": 1.7}),
    (
        "nemotron_h",
        "biases",
        {"attention_bias": True, "mlp_bias": True, "use_bias": True, "use_conv_bias": False},
    ),
    ("olmo3", "window", {"layer_types": ["full_attention", "sliding_attention"] * 2 + ["full_attention"]}),
    ("qwen2_moe", "sparse", {"decoder_sparse_step": 2, "norm_topk_prob": True, "num_hidden_layers": 4}),
    ("qwen2_moe", "window", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}),
    ("bloom", "size", {"hidden_size": 64, "n_head": 4, "n_layer": 2}),
    ("mpt", "scaled", {"n_heads": 4, "attn_config": {"alibi": True, "softmax_scale": 0.3}}),
    ("falcon_40b", "one_norm", {"num_ln_in_parallel_attn": 1, "tie_word_embeddings": False}),
    ("falcon", "llama3", {"rope_scaling": LLAMA3, "ffn_hidden_size": 160}),
    ("falcon_rw", "parallel", {"parallel_attn": True, "multi_query": True, "bias": False}),
    ("opt", "plain", {"enable_bias": False, "layer_norm_elementwise_affine": False}),
    ("opt", "gelu", {"activation_function": "gelu", "tie_word_embeddings": False}),
    ("bitnet", "yarn", {"rope_scaling": YARN_MSCALE, "attention_bias": True}),
    ("phimoe", "window", {"sliding_window": 8, "router_jitter_noise": 0.01, "attention_bias": False}),
    (
        "phimoe",
        "longrope",
        {"rope_scaling": LONGROPE | {"short_mscale": 1.2, "long_mscale": 1.2}}
        | {"original_max_position_embeddings": 64},
    ),
    ("apertus", "llama3", {"rope_scaling": LLAMA3, "tie_word_embeddings": True}),
    ("qwen3_5_moe", "heads", {"linear_num_key_heads": 1, "linear_num_value_heads": 4}),
    (
        "granite",
        "as_minicpm",
        {"attention_multiplier": 0.25, "embedding_multiplier": 12.0}
        | {"residual_multiplier": 0.7, "logits_scaling": 2.0},
    ),
]


def changed(base: Change, change: Change) -> Change:
    """A config with other values; rotation and kinds of layers follow them."""
    config = copy.deepcopy(base)
    text = config.get("text_config", config)
    for key in text.keys() & {"vocab_size", "vocab_size_per_layer_input"}:
        text[key] = N_VOCAB
    for key, value in change.items():
        if key == "rope_scaling" and "rope_parameters" in text:
            kept = ("rope_theta", "partial_rotary_factor", "mrope_section", "mrope_interleaved")
            old = text["rope_parameters"]
            text["rope_parameters"] = {name: old[name] for name in kept if name in old} | value
        else:
            text[key] = value
    follow = change.keys() & {"num_hidden_layers", "sliding_window", "no_rope_layers"}
    if follow and "layer_types" not in change:
        text.pop("layer_types", None)
    if "num_hidden_layers" in change:
        text.pop("no_rope_layers", None)
    return config


def main(references: Path, anew: list[str]) -> None:
    """Write the file."""
    with np.load(PATH) as stored:
        kept = {case["name"]: case for case in json.loads(str(stored["cases"]))}
        arrays = {name: stored[name] for name in kept}
    cases = []
    seed = max(case["seed"] for case in kept.values())
    for case, name, change in CASES:
        full = f"{case}-{name}"
        if full in kept and full not in anew:
            cases.append(kept[full])
            continue
        seed += 1
        base = CONFIGS.get(case) or json.loads((references / case / "config.json").read_text())
        config = changed(base, change)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "config.json").write_text(json.dumps(config))
            parsed = AutoConfig.from_pretrained(folder)
            kind = AutoModelForImageTextToText if "vision_config" in config else AutoModelForCausalLM
            kind.from_config(parsed).save_pretrained(folder)
            path = Path(folder, "model.safetensors")
            with safe_open(path, "np") as file:
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            save_file(dict(weights(shapes, seed)), path, metadata={"format": "pt"})
            # The eager form of a model with ALiBi adds the biases twice.
            form = "sdpa" if config.get("alibi") else "eager"
            model = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation=form)
            with torch.no_grad():
                logits = model(torch.tensor([token_ids(seed)])).logits[0, -N_ROWS:].numpy()
            saved = json.loads(Path(folder, "config.json").read_text())
        cases.append({"name": full, "seed": seed, "config": config, "saved": saved, "shapes": shapes})
        arrays[full] = logits.astype(np.float32)
        print(full, float(np.abs(logits).max()))
    np.savez_compressed(PATH, cases=np.array(json.dumps(cases)), **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
