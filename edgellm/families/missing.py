"""Families that edgellm does not have, by the part that they need and it lacks."""

from __future__ import annotations

from collections.abc import Iterable

from edgellm.errors import UnsupportedError, show

_MAMBA = "the scan of Mamba 1"
_RWKV = "RWKV's recurrence"
_CROSS = "attention to an encoder's rows"
_INDEXER = "sparse attention with an indexer"
_KIMI = "Kimi's delta attention"
_GEMMA3N = "AltUp and LAuReL, the parallel rows of Gemma 3n"
_LIGHTNING = "lightning attention"
_DIFFUSION = "generation by diffusion"
_AUDIO = "audio"
# Model types of the Hub and architectures of GGUF files.
_LACKS = {
    **dict.fromkeys(("mamba", "falcon_mamba", "jamba"), _MAMBA),
    **dict.fromkeys(("rwkv", "rwkv5", "rwkv6", "rwkv6qwen2", "rwkv7", "arwkv7"), _RWKV),
    **dict.fromkeys(("t5", "t5encoder", "mt5", "umt5", "bart", "mbart", "marian", "pegasus"), _CROSS),
    **dict.fromkeys(("deepseek_v32", "deepseek32", "glm_moe_dsa", "glm-dsa"), _INDEXER),
    **dict.fromkeys(("kimi_linear", "kimi-linear"), _KIMI),
    **dict.fromkeys(("gemma3n", "gemma3n_text"), _GEMMA3N),
    **dict.fromkeys(("minimax", "minimax_text_01", "minimax_m1"), _LIGHTNING),
    **dict.fromkeys(("dream", "llada", "llada-moe", "diffusion_gemma"), _DIFFUSION),
    **dict.fromkeys(("whisper", "wav2vec2", "wavtokenizer-dec"), _AUDIO),
    **dict.fromkeys(("deberta", "deberta-v2"), "disentangled attention"),
    **dict.fromkeys(("llama4", "llama4_text"), "attention in chunks"),
    **dict.fromkeys(("recurrent_gemma",), "the recurrence RG-LRU"),
}


def refusal(where: str, name: str, supported: Iterable[str]) -> UnsupportedError:
    """The error for a family; `where` is the field that names it."""
    from edgellm import __version__

    lacks = _LACKS.get(name, "this family")
    return UnsupportedError(
        f"{where} is {show(name)}, which edgellm {__version__} does not implement: it lacks {lacks}, which a "
        f"later version may have; supported: {', '.join(sorted(supported))}"
    )
