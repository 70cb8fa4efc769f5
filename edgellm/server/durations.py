"""Lengths of time as Ollama writes them: "5m", "1h30m", or a number of seconds.

Source: Go's time.ParseDuration, which Ollama's keep_alive follows, and Ollama's rule that a negative one
means for ever.
"""

from __future__ import annotations

import math
import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)"
_MAX_LENGTH = 64
_LONGEST_S = 1e18


def duration(value: object) -> float:
    """Seconds; infinite for a negative length. Raises ValueError for what is no length of time."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(_refusal(value))
    if isinstance(value, str):
        text = value.strip()
        if len(text) > _MAX_LENGTH:
            raise ValueError(_refusal(text[:_MAX_LENGTH]))
        value = _seconds(text)
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(_refusal(value))
    return math.inf if value < 0 else float(min(value, _LONGEST_S))


def _seconds(text: str) -> float:
    sign, digits = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if re.fullmatch(r"\d+(?:\.\d*)?|\.\d+", digits, re.ASCII):
        return sign * float(digits)
    if not re.fullmatch(f"(?:{_PART})+", digits, re.ASCII):
        raise ValueError(_refusal(text))
    return sign * sum(float(n) * _UNITS[unit] for n, unit in re.findall(_PART, digits, re.ASCII))


def _refusal(value: object) -> str:
    return f"{value!r} is not a length of time such as 5m, 1h30m or a number of seconds"
