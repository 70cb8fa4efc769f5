"""Typed, bounded reads of a model file's metadata; errors name the key."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgellm.errors import ModelError, UnsupportedError, show

# Bounds on counts and layers: a file beyond them is damaged. They also bound the size of an array.
MAX_COUNT = 2**31 - 1
MAX_LAYERS = 4096


class Metadata:
    """Typed reads of GGUF metadata; keys are given without the architecture's prefix.

    A key that is missing without a default, or of another type or range, raises ModelError naming it.
    """

    def __init__(self, values: Mapping[str, Any], architecture: str) -> None:
        self.values = values
        self.architecture = architecture

    def key(self, name: str) -> str:
        """The key with the architecture's prefix."""
        return f"{self.architecture}.{name}"

    def has(self, name: str) -> bool:
        """True if the file has the key."""
        return self.key(name) in self.values

    def integer(
        self, name: str, default: int | None = None, *, minimum: int = 1, maximum: int = MAX_COUNT
    ) -> int:
        """An integer within its bounds."""
        return self._int(name, self._get(name, default), minimum, maximum)

    def number(self, name: str, default: float | None = None, *, minimum: float | None = None) -> float:
        """A finite number: more than 0, or at least the minimum if one is given."""
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._refuse(name, show(value), "a number")
        if not math.isfinite(value) or (value <= 0 if minimum is None else value < minimum):
            bound = "more than 0" if minimum is None else f"of at least {minimum:g}"
            raise self._refuse(name, show(value), f"a finite number {bound}")
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise self._refuse(name, show(value), "true or false")
        return value

    def choice(self, name: str, choices: Sequence[str], default: str | None = None) -> str:
        """A string out of `choices`; UnsupportedError for another."""
        value = self._get(name, default)
        if not isinstance(value, str):
            raise self._refuse(name, show(value), "a string")
        if value not in choices:
            raise UnsupportedError(
                f"metadata {self.key(name)!r} is {show(value)}, which edgellm does not implement; "
                f"supported: {', '.join(choices)}"
            )
        return value

    def integers(
        self, name: str, n_layers: int, default: int | None = None, *, minimum: int = 1
    ) -> tuple[int, ...]:
        """One integer per layer, from an array or from one value for all."""
        return tuple(self._int(name, v, minimum, MAX_COUNT) for v in self._per_layer(name, n_layers, default))

    def numbers(self, name: str, n_layers: int) -> tuple[float, ...]:
        """One finite number per layer, from an array or from one value for all."""
        values = self._per_layer(name, n_layers, None)
        for value in values:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise self._refuse(name, show(value), "a finite number for each layer")
        return tuple(float(value) for value in values)

    def flags(self, name: str, n_layers: int, default: bool | None = None) -> tuple[bool, ...]:
        """One truth value per layer, from an array or from one value for all."""
        values = self._per_layer(name, n_layers, default)
        for value in values:
            if not isinstance(value, bool) and value not in (0, 1):
                raise self._refuse(name, show(value), "true or false for each layer")
        return tuple(bool(value) for value in values)

    def is_list(self, name: str) -> bool:
        """True if the key exists and holds an array."""
        return isinstance(self.values.get(self.key(name)), Sequence) and not isinstance(
            self.values.get(self.key(name)), str
        )

    def refuse(self, *names: str) -> None:
        """UnsupportedError if the file has one of these keys with a value that would change the result."""
        for name in names:
            value = self.values.get(self.key(name))
            if value:
                raise UnsupportedError(
                    f"metadata {self.key(name)!r} is {show(value)}, which edgellm does not implement here"
                )

    def _get(self, name: str, default: Any) -> Any:
        value = self.values.get(self.key(name), default)
        if value is None:
            raise ModelError(
                f"metadata {self.key(name)!r} is missing; the file is incomplete, convert the model again"
            )
        return value

    def _per_layer(self, name: str, n_layers: int, default: Any) -> Sequence[Any]:
        value = self._get(name, default)
        if isinstance(value, str) or not isinstance(value, Sequence):
            return (value,) * n_layers
        if len(value) < n_layers:
            raise self._refuse(name, f"{len(value)} values", f"{n_layers}, one for each layer")
        return value[:n_layers]

    def _int(self, name: str, value: Any, minimum: int, maximum: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._refuse(name, show(value), "an integer")
        if not minimum <= value <= maximum:
            raise self._refuse(name, show(value), f"{minimum} to {maximum}")
        return value

    def _refuse(self, name: str, found: str, expected: str) -> ModelError:
        return ModelError(f"metadata {self.key(name)!r} is {found}, expected {expected}")
