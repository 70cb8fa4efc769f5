"""Source: a model file as a family builds from it, with metadata, tensor shapes and the requested context."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

from edgellm.errors import ModelError, UnsupportedError
from edgellm.families.metadata import MAX_LAYERS, Metadata
from edgellm.program import Builder
from edgellm.program.rope import (
    YarnOptions,
    default_inv_freq,
    linear_inv_freq,
    longrope_mscale,
    yarn_inv_freq,
    yarn_mscale,
)

Shape = tuple[int, ...]
MAX_HEAD = 1 << 16


class Norm(NamedTuple):
    """Kind of normalization, by root mean square or by mean and variance, and its epsilon."""

    kind: str
    eps: float


class Source:
    """One model file, with the reads that all families share."""

    def __init__(
        self,
        values: Mapping[str, Any],
        architecture: str,
        tensors: Mapping[str, Shape],
        context: int | None = None,
    ) -> None:
        self.metadata = Metadata(values, architecture)
        self.tensors = tensors
        self.context = context

    @cached_property
    def n_layers(self) -> int:
        """Number of layers that the program runs, without multi-token-prediction layers at the end."""
        n_layers = self.metadata.integer("block_count", maximum=MAX_LAYERS)
        return n_layers - self.metadata.integer("nextn_predict_layers", 0, minimum=0, maximum=n_layers - 1)

    @cached_property
    def width(self) -> int:
        """Width of a token's row between the layers."""
        return self.metadata.integer("embedding_length")

    @cached_property
    def n_ctx_train(self) -> int:
        """Tokens of context that the model was trained with."""
        return self.metadata.integer("context_length")

    @cached_property
    def n_vocab(self) -> int:
        """Rows of the token embedding."""
        shape = self.tensors.get("token_embd.weight")
        if shape is None:
            raise ModelError("tensor 'token_embd.weight' is missing; the file holds no complete model")
        if len(shape) != 2 or shape[1] != self.width or shape[0] < 1:
            raise ModelError(
                f"tensor 'token_embd.weight' has shape {tuple(shape)}, expected (n_vocab, {self.width}) from "
                f"metadata {self.metadata.key('embedding_length')!r}"
            )
        return shape[0]

    @cached_property
    def n_heads(self) -> tuple[int, ...]:
        """Query heads of each layer."""
        return self.metadata.integers("attention.head_count", self.n_layers)

    @cached_property
    def n_kv_heads(self) -> tuple[int, ...]:
        """Key and value heads of each layer; 0 for a layer without attention."""
        if not self.metadata.has("attention.head_count_kv"):
            return self.n_heads
        return self.metadata.integers("attention.head_count_kv", self.n_layers, minimum=0)

    @cached_property
    def head_dim(self) -> int:
        """Width of a query or key head."""
        default = self.width // max(self.n_heads)
        return self.metadata.integer("attention.key_length", default, maximum=MAX_HEAD)

    @cached_property
    def value_dim(self) -> int:
        """Width of a value head."""
        default = self.width // max(self.n_heads)
        return self.metadata.integer("attention.value_length", default, maximum=MAX_HEAD)

    @cached_property
    def n_ff(self) -> tuple[int, ...]:
        """Hidden width of each layer's feed-forward part."""
        return self.metadata.integers("feed_forward_length", self.n_layers)

    @cached_property
    def pooling(self) -> str:
        """Pooling of rows to one embedding: GGUF's pooling_type, the mean if the file has none."""
        number = self.metadata.integer("pooling_type", 1, minimum=0, maximum=4)
        return ("mean", "mean", "cls", "last", "rank")[number]

    @cached_property
    def experts(self) -> tuple[int, int]:
        """Number of experts, and of experts used for one token; (0, 0) for a model without experts."""
        n_experts = self.metadata.integer("expert_count", 0, minimum=0, maximum=MAX_HEAD)
        if not n_experts:
            return 0, 0
        return n_experts, self.metadata.integer("expert_used_count", maximum=n_experts)

    @cached_property
    def rms(self) -> Norm:
        """RMS norm with the file's epsilon."""
        return Norm("rms", self.metadata.number("attention.layer_norm_rms_epsilon"))

    @cached_property
    def layer_norm(self) -> Norm:
        """Layer norm with the file's epsilon."""
        return Norm("layer", self.metadata.number("attention.layer_norm_epsilon"))

    def windows(self, every: int = 1) -> tuple[int, ...]:
        """Sliding window of each layer, 0 for full attention.

        The file lists the sliding layers, or says that all but each n-th slide; `every` is the family's n.
        """
        m = self.metadata
        window = m.integer("attention.sliding_window", 0, minimum=0)
        if m.is_list("attention.sliding_window_pattern"):
            slides = m.flags("attention.sliding_window_pattern", self.n_layers)
        else:
            every = m.integer("attention.sliding_window_pattern", every)
            slides = tuple(i % every < every - 1 for i in range(self.n_layers))
        return tuple(window if slide else 0 for slide in slides)

    def builder(self, family: str) -> Builder:
        """An empty program of the file's dimensions."""
        return Builder(
            family,
            n_vocab=self.n_vocab,
            width=self.width,
            n_layers=self.n_layers,
            n_ctx_train=self.n_ctx_train,
            tensors=self.tensors,
        )

    def rope_dims(self, default: int | None = None) -> int:
        """Number of rotated values of a head."""
        head = default or self.head_dim
        n_dims = self.metadata.integer("rope.dimension_count", head, minimum=2, maximum=MAX_HEAD)
        if n_dims % 2 or n_dims > self.head_dim:
            raise ModelError(
                f"metadata {self.metadata.key('rope.dimension_count')!r} is {n_dims}, "
                f"expected an even number up to {self.head_dim} (one head)"
            )
        return n_dims

    def rope_table(
        self,
        b: Builder,
        *,
        name: str = "rope",
        n_dims: int | None = None,
        base: float | None = None,
        scaled: bool = True,
        truncate: bool = True,
    ) -> str:
        """Declare the rotation table that the metadata describes; `scaled=False` ignores its scaling.

        Linear scaling and YaRN change the frequencies here; Llama 3 and LongRoPE store factors in a tensor.
        """
        m = self.metadata
        n_dims = n_dims or self.rope_dims()
        base = base or m.number("rope.freq_base", 10000.0)
        kind = m.choice("rope.scaling.type", ("none", "linear", "yarn", "longrope"), "linear")
        factor = m.number("rope.scaling.factor", 0.0, minimum=0) or m.number("rope.scale_linear", 1.0)
        mscale = m.number("rope.scaling.attn_factor", 1.0)
        if not scaled or kind == "none":
            return b.table(name, default_inv_freq(n_dims, base))
        if kind == "longrope":
            return b.table(name, default_inv_freq(n_dims, base), self._longrope_mscale(mscale))
        if kind == "linear":
            return b.table(name, linear_inv_freq(n_dims, base, factor), mscale)
        if base <= 1:
            raise ModelError(f"metadata {m.key('rope.freq_base')!r} is {base}, expected more than 1 for YaRN")
        if m.number("rope.scaling.yarn_ext_factor", 1.0, minimum=-1) not in (1.0, -1.0):
            raise UnsupportedError(
                f"metadata {m.key('rope.scaling.yarn_ext_factor')!r}: only 1 is implemented"
            )
        options = YarnOptions(
            factor=factor,
            n_ctx_original=m.integer("rope.scaling.original_context_length", self.n_ctx_train),
            beta_fast=m.number("rope.scaling.yarn_beta_fast", 32.0),
            beta_slow=m.number("rope.scaling.yarn_beta_slow", 1.0),
            truncate=m.flag("rope.scaling.yarn_truncate", truncate),
        )
        # A model with a log multiplier (DeepSeek) scales its attention by it instead.
        if not m.number("rope.scaling.yarn_log_multiplier", 0.0, minimum=0):
            mscale *= yarn_mscale(factor)
        return b.table(name, yarn_inv_freq(n_dims, base, options), mscale)

    def rope_factors(self) -> str | None:
        """Tensor of rotation factors: Llama 3's, or LongRoPE's long or short ones, chosen by the context."""
        if "rope_freqs.weight" in self.tensors:
            return "rope_freqs.weight"
        if "rope_factors_long.weight" not in self.tensors:
            return None
        original = self.metadata.integer("rope.scaling.original_context_length", self.n_ctx_train)
        n_ctx = self.context or self.n_ctx_train
        return "rope_factors_long.weight" if n_ctx > original else "rope_factors_short.weight"

    def _longrope_mscale(self, written: float) -> float:
        if self.metadata.has("rope.scaling.attn_factor"):
            return written
        original = self.metadata.integer("rope.scaling.original_context_length", self.n_ctx_train, minimum=2)
        return longrope_mscale(self.n_ctx_train, original)
