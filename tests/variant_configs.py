"""Small configs of families that have no reference checkpoint, for tests/make_variants.py."""

from __future__ import annotations

from typing import Any

Change = dict[str, Any]
BASE: Change = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "rms_norm_eps": 1e-6,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
    "norm_eps": 1e-5,
}
EXPERTS: Change = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
DELTA: Change = {
    "head_dim": 32,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "full_attention_interval": 2,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.25,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    },
}
VISION: Change = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 4}
SEEN: Change = VISION | {"out_hidden_size": 64, "num_position_embeddings": 16, "spatial_merge_size": 1}
MAMBA: Change = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 2,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 8,
}
GRANITE: Change = {
    "attention_multiplier": 0.3,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.7,
    "logits_scaling": 2.0,
}


def config(model_type: str, *changes: Change) -> Change:
    """The base with the model type and the changes; a null drops a key."""
    merged: Change = BASE | {"model_type": model_type}
    for change in changes:
        merged |= change
    return {key: value for key, value in merged.items() if value is not None}


MINISTRAL_ROPE: Change = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 8,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.4,
}


FALCON: Change = {
    "model_type": "falcon",
    "vocab_size": 128,
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "layer_norm_epsilon": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# Six heads: ALiBi's slopes of a power of two, and those between.
BLOOM: Change = {
    "model_type": "bloom",
    "vocab_size": 128,
    "hidden_size": 96,
    "n_layer": 3,
    "n_head": 6,
    "layer_norm_epsilon": 1e-5,
}
MPT: Change = {
    "model_type": "mpt",
    "vocab_size": 128,
    "d_model": 96,
    "n_layers": 3,
    "n_heads": 6,
    "max_seq_len": 256,
    "attn_config": {"attn_type": "multihead_attention", "alibi": True, "clip_qkv": None},
}
OPT: Change = {
    "model_type": "opt",
    "vocab_size": 128,
    "hidden_size": 64,
    "ffn_dim": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
CONFIGS: dict[str, Change] = {
    "apertus": config("apertus", {"hidden_act": "xielu"}),
    "arcee": config("arcee", {"hidden_act": "relu2"}),
    "bitnet": config("bitnet", {"hidden_act": "relu2"}),
    "bitnet_silu": config("bitnet", {"hidden_act": "silu", "tie_word_embeddings": True}),
    "bloom": BLOOM,
    "ernie4_5_moe": config(
        "ernie4_5_moe",
        {"moe_num_experts": 6, "moe_k": 2, "moe_intermediate_size": 32, "moe_layer_start_index": 1},
    ),
    "exaone": config(
        "exaone",
        {"num_layers": 3, "num_hidden_layers": None, "layer_norm_epsilon": 1e-5},
        {"activation_function": "silu"},
    ),
    "falcon": FALCON,
    "falcon_40b": FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon_rw": FALCON | {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
    "falcon_h1": config(
        "falcon_h1",
        MAMBA | {"mamba_d_ssm": 128, "mamba_rms_norm": True, "mamba_norm_before_gate": False},
        {"attention_in_multiplier": 0.8, "attention_out_multiplier": 1.2, "key_multiplier": 0.6},
        {"embedding_multiplier": 2.5, "lm_head_multiplier": 0.4, "mlp_multipliers": [0.7, 1.4]},
        {"ssm_in_multiplier": 1.3, "ssm_out_multiplier": 0.8, "ssm_multipliers": [0.5, 0.6, 0.7, 0.8, 0.9]},
    ),
    "gemma": config("gemma", {"head_dim": 32, "hidden_act": "gelu", "tie_word_embeddings": True}),
    "gemma4_unified": config(
        "gemma4_unified_text",
        {"head_dim": 16, "global_head_dim": 32, "sliding_window": 8, "num_global_key_value_heads": 1},
        {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"], "rope_theta": None},
        {"tie_word_embeddings": True, "attention_k_eq_v": True},
    ),
    "gemma4_moe": config(
        "gemma4_text",
        {"head_dim": 16, "global_head_dim": 32, "sliding_window": 8, "num_global_key_value_heads": 1},
        {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"], "rope_theta": None},
        {"tie_word_embeddings": True, "attention_k_eq_v": True, "hidden_size_per_layer_input": 0},
        {"enable_moe_block": True, "num_experts": 6, "top_k_experts": 2, "moe_intermediate_size": 24},
        {"num_kv_shared_layers": 0, "use_double_wide_mlp": False},
    ),
    "glm4_moe": config(
        "glm4_moe",
        {"n_routed_experts": 6, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
        {"moe_intermediate_size": 32, "attention_bias": True, "routed_scaling_factor": 1.5, "head_dim": 16},
    ),
    "glm4_moe_lite": config(
        "glm4_moe_lite",
        {"n_routed_experts": 6, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
        {"kv_lora_rank": 32, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16},
        {"v_head_dim": 16, "num_key_value_heads": 4},
        {"mlp_layer_types": ["dense", "sparse", "sparse"], "rms_norm_eps": 1e-5},
    ),
    "granite_moe": config("granitemoe", GRANITE, {"num_local_experts": 6, "num_experts_per_tok": 2}),
    "granite_moe_shared": config(
        "granitemoeshared",
        GRANITE,
        {"num_local_experts": 6, "num_experts_per_tok": 2, "shared_intermediate_size": 48},
    ),
    "granite_hybrid": config(
        "granitemoehybrid",
        GRANITE,
        MAMBA,
        {"num_local_experts": 6, "num_experts_per_tok": 2, "shared_intermediate_size": 48},
        {"layer_types": ["mamba", "attention", "mamba"], "position_embedding_type": "nope"},
    ),
    "hunyuan_moe": config(
        "hunyuan_v1_moe", {"num_experts": 4, "moe_topk": 2, "head_dim": 16, "use_qk_norm": True}
    ),
    "lfm2_moe": config(
        "lfm2_moe",
        EXPERTS | {"num_dense_layers": 1, "conv_L_cache": 3, "tie_word_embeddings": True},
        {"layer_types": ["conv", "full_attention", "conv"], "rope_theta": 10000.0},
    ),
    "mpt": MPT,
    "nemotron_h": config(
        "nemotron_h",
        {"hybrid_override_pattern": "M-M*-", "num_hidden_layers": 5, "mamba_num_heads": 8, "n_groups": 2},
        {"mamba_head_dim": 16, "ssm_state_size": 16, "head_dim": 16, "chunk_size": 8, "rope_theta": None},
    ),
    "olmo": config("olmo"),
    "ministral3": config(
        "ministral3",
        {"head_dim": 16, "rope_theta": None, "rope_parameters": MINISTRAL_ROPE},
    ),
    "nemotron_h_moe": config(
        "nemotron_h",
        {"hybrid_override_pattern": "ME*EM", "num_hidden_layers": 5, "mamba_num_heads": 8, "n_groups": 2},
        {"mamba_head_dim": 16, "ssm_state_size": 16, "head_dim": 16, "chunk_size": 8, "rope_theta": None},
        {"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_group": 2},
        {"moe_shared_expert_intermediate_size": 48, "topk_group": 1, "routed_scaling_factor": 1.7},
    ),
    "olmoe": config("olmoe", {"num_experts": 6, "num_experts_per_tok": 2}),
    "opt": OPT,
    "opt_narrow": OPT | {"word_embed_proj_dim": 32, "do_layer_norm_before": False},
    "olmo3": config("olmo3", {"sliding_window": 8, "num_hidden_layers": 5, "rope_theta": 500000.0}),
    "phimoe": config(
        "phimoe",
        {"num_local_experts": 6, "num_experts_per_tok": 2, "attention_bias": True, "lm_head_bias": True},
        {"router_jitter_noise": 0.2},
    ),
    "phi": config("phi", {"hidden_act": "gelu_new", "partial_rotary_factor": 0.5}),
    "qwen2_moe": config(
        "qwen2_moe", EXPERTS | {"shared_expert_intermediate_size": 48, "norm_topk_prob": False}
    ),
    "qwen2_vl": config(
        "qwen2_vl",
        {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}},
        {"vision_config": VISION | {"embed_dim": 16, "hidden_size": 64, "spatial_merge_size": 1}},
    ),
    "qwen2_5_vl": {
        "model_type": "qwen2_5_vl",
        "vision_config": SEEN,
        "text_config": config(
            "qwen2_5_vl_text", {"rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
        ),
    },
    "qwen3_vl": {
        "model_type": "qwen3_vl",
        "vision_config": SEEN | {"deepstack_visual_indexes": [0]},
        "tie_word_embeddings": True,
        "text_config": config(
            "qwen3_vl_text",
            {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3], "mrope_interleaved": True}},
            {"head_dim": 16, "tie_word_embeddings": None},
        ),
    },
    "qwen3_vl_moe": {
        "model_type": "qwen3_vl_moe",
        "vision_config": SEEN | {"deepstack_visual_indexes": [0]},
        "text_config": config(
            "qwen3_vl_moe_text",
            EXPERTS | {"head_dim": 16, "decoder_sparse_step": 1},
            {"rope_scaling": {"rope_type": "default", "mrope_section": [2, 3, 3], "mrope_interleaved": True}},
        ),
    },
    "qwen3_5_moe": config(
        "qwen3_5_moe_text", EXPERTS | DELTA | {"shared_expert_intermediate_size": 48, "rope_theta": None}
    ),
    "seed_oss": config("seed_oss", {"head_dim": 32, "attention_bias": True, "attention_out_bias": False}),
}
