"""Typed reads of a checkpoint's config.json in the forms of transformers 4 and 5; errors name the key.

Version 4 writes `rope_theta` and `rope_scaling`, version 5 `rope_parameters`. Text models inside multimodal
ones are nested in `text_config`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from edgellm.errors import ModelError, UnsupportedError, show

_MAX_COUNT = 2**31 - 1
_MAX_LAYERS = 4096


class RopeConfig(NamedTuple):
    """Rotation of one kind of layers: type, base, and the parameters of its scaling."""

    kind: str
    base: float
    parameters: Mapping[str, Any]

    def number(self, key: str, default: float | None = None) -> float:
        """A scaling parameter that is a number above 0; 0 is accepted only as the default."""
        value = self.parameters.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self._refuse(key, value, "a number")
        if value <= 0 and value != default:
            raise self._refuse(key, value, "a number more than 0")
        return float(value)

    def integer(self, key: str, default: int | None = None) -> int:
        """A scaling parameter of at least 1, without its fraction."""
        value = self.number(key, default)
        if value < 1:
            raise self._refuse(key, value, "a number of at least 1")
        return int(value)

    def numbers(self, key: str) -> tuple[float, ...]:
        """A scaling parameter that is a list of numbers."""
        values = self.parameters.get(key)
        if not isinstance(values, list) or not all(type(v) in (int, float) for v in values):
            raise self._refuse(key, values, "a list of numbers")
        return tuple(float(v) for v in values)

    def _refuse(self, key: str, found: object, expected: str) -> ModelError:
        return ModelError(f"config.json: rope parameter {key!r} is {show(found)}, expected {expected}")


class Config:
    """Typed reads of config.json; null and a missing key mean the same. defaults: values of missing keys."""

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any] = MappingProxyType({})) -> None:
        nested = values.get("text_config")
        given: dict[str, Any] = {**values, **nested} if isinstance(nested, Mapping) else dict(values)
        self.values = {**defaults, **given}
        self.model_type = self.string("model_type")

    def get(self, *keys: str) -> Any:
        """Value of the first of the keys that is neither missing nor null."""
        return next((self.values[key] for key in keys if self.values.get(key) is not None), None)

    def integer(
        self, *keys: str, default: int | None = None, minimum: int = 1, maximum: int = _MAX_COUNT
    ) -> int:
        """An integer within its bounds, under one of several names."""
        value = self._required(keys, default)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise self._refuse(keys[0], value, f"an integer of {minimum} to {maximum}")
        return value

    def number(self, *keys: str, default: float | None = None) -> float:
        """A finite number."""
        value = self._required(keys, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self._refuse(keys[0], value, "a number")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._required((key,), default)
        if not isinstance(value, bool):
            raise self._refuse(key, value, "true or false")
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of numbers; empty where the key is missing."""
        values = self.get(key)
        if values is None:
            return ()
        if not isinstance(values, list) or not all(isinstance(v, (int, float)) for v in values):
            raise self._refuse(key, values, "a list of numbers")
        return tuple(values)

    def string(self, *keys: str, default: str | None = None) -> str:
        """A string."""
        value = self._required(keys, default)
        if not isinstance(value, str):
            raise self._refuse(keys[0], value, "a string")
        return value

    def only(self, key: str, *allowed: object) -> None:
        """UnsupportedError unless the key is missing, null, or one of the allowed values."""
        value = self.values.get(key)
        if value is not None and value not in allowed:
            raise UnsupportedError(
                f"config.json: {key!r} is {show(value)}, which edgellm does not implement; "
                f"supported: {', '.join(map(repr, allowed))}"
            )

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return self.integer("num_hidden_layers", "n_layer", "num_layers", "n_layers", maximum=_MAX_LAYERS)

    @property
    def width(self) -> int:
        """Width of a token's row."""
        return self.integer("hidden_size", "n_embd", "n_embed", "d_model")

    @property
    def n_heads(self) -> int:
        """Query heads."""
        return self.integer("num_attention_heads", "n_head", "n_heads")

    @property
    def n_kv_heads(self) -> int:
        """Key and value heads."""
        return self.integer("num_key_value_heads", default=self.n_heads)

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.integer("head_dim", default=self.width // self.n_heads)

    @property
    def tied(self) -> bool | None:
        """True if the output head is the token embedding; None if only the tensors say so."""
        return None if self.get("tie_word_embeddings") is None else self.flag("tie_word_embeddings")

    def layer_types(self) -> tuple[str, ...] | None:
        """Type of each layer; None if the config lists none."""
        value = self.get("layer_types")
        if value is None:
            return None
        if not isinstance(value, Sequence) or len(value) < self.n_layers:
            raise self._refuse("layer_types", value, f"{self.n_layers} names")
        return tuple(str(name) for name in value[: self.n_layers])

    def rope(self, layer_type: str | None = None) -> RopeConfig:
        """Rotation of the layers of `layer_type`, or of all layers."""
        parameters = self.get("rope_parameters", "rope_scaling") or {}
        if not isinstance(parameters, Mapping):
            raise self._refuse("rope_scaling", parameters, "an object or null")
        if layer_type is not None and isinstance(parameters.get(layer_type), Mapping):
            parameters = parameters[layer_type]
        if any(isinstance(value, Mapping) for value in parameters.values()):
            raise UnsupportedError(
                f"config.json: 'rope_parameters' differ by kind of layer ({', '.join(parameters)}), which "
                f"edgellm does not implement for model type {self.model_type!r}"
            )
        kind = parameters.get("rope_type") or parameters.get("type") or "default"
        # The three positions of a text token are the same.
        kind = "default" if kind == "mrope" else kind
        base = parameters.get("rope_theta") or self.get("rotary_emb_base", "rope_theta") or 10000.0
        if isinstance(base, bool) or not isinstance(base, (int, float)) or not 0 < base < math.inf:
            raise self._refuse("rope_theta", base, "a number more than 0")
        return RopeConfig(str(kind), float(base), parameters)

    def rotary_share(self, default: float = 1.0) -> float:
        """Fraction of each head that is rotated."""
        parameters = self.get("rope_parameters") or {}
        share = parameters.get("partial_rotary_factor") if isinstance(parameters, Mapping) else None
        return self.number("partial_rotary_factor", "rotary_pct", default=default if share is None else share)

    def _required(self, keys: tuple[str, ...], default: Any) -> Any:
        value = self.get(*keys)
        if value is None:
            value = default
        if value is None:
            raise ModelError(
                f"config.json has no {keys[0]!r}; the checkpoint is incomplete or of another kind"
            )
        return value

    def _refuse(self, key: str, found: object, expected: str) -> ModelError:
        return ModelError(f"config.json: {key!r} is {show(found)}, expected {expected}")
