"""The fields of requests that all APIs share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from edgellm.engine.options import GenerateOptions
from edgellm.engine.sampling_params import DEFAULTS
from edgellm.errors import UsageError

IGNORED_HEADER = "X-Edgellm-Ignored"
MAX_NAMED = 32
_NAME = re.compile(r"[A-Za-z0-9_.$/-]{1,200}")
# Values by which clients switch an option off, and the values that do; a nucleus of almost nothing holds
# only the likeliest token.
_OFF: dict[tuple[str, object], float] = {("top_k", -1): 0, ("top_p", 0): 1e-9, ("repeat_penalty", 0): 1.0}


class Body(BaseModel):
    """A request's fields; null means not given, unknown fields are ignored and named in a header."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if isinstance(given, dict):
            return {name: value for name, value in given.items() if value is not None}
        return given

    def unread(self) -> list[str]:
        """The names of the fields nobody reads."""
        return list(self.model_extra or {})

    def ignored(self, more: Iterable[str] = ()) -> dict[str, str]:
        """Header that names the fields nobody reads, and `more`."""
        return naming_header(IGNORED_HEADER, sorted({*self.unread(), *more}))


class ModelBody(Body):
    """The fields of a request to a model; without a name, the only one is meant."""

    model: str | None = None


def naming_header(header: str, names: list[str]) -> dict[str, str]:
    """A header that lists names, or none without any; names that are not valid in a header are skipped."""
    valid = [name for name in names if _NAME.fullmatch(name)]
    return {header: ", ".join(valid[:MAX_NAMED])} if valid else {}


class AdapterScale(Body):
    """An adapter by its number or name, and its scale; as llama.cpp's server has it."""

    id: int | str
    scale: float = 1.0


class SamplingFields(Body):
    """The sampling fields that all APIs share; None is the model's own choice.

    Values by which other servers' clients switch something off are taken as that: top_k -1, top_p 0 (only
    the likeliest token), repeat_penalty 0, seed -1, empty stop texts. lora: the adapters of the answer;
    those not named are not used.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    penalty_last_n: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    logit_bias: dict[str, float] | None = None
    ignore_eos: bool = False
    lora: list[AdapterScale] | None = None

    def options(self, *, max_tokens: int | None, logprobs: int | None = None) -> GenerateOptions:
        """Generation options; UsageError for a value out of range. max_tokens -1 sets no limit."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return GenerateOptions(
            max_tokens=None if max_tokens == -1 else max_tokens,
            seed=None if self.seed is None or self.seed < 0 else self.seed,
            stop=tuple(text for text in stop if text),
            logit_bias=_biases(self.logit_bias or {}),
            logprobs=logprobs,
            ignore_eos=self.ignore_eos,
            lora=None if self.lora is None else {one.id: one.scale for one in self.lora},
            **{name: _OFF.get((name, value := getattr(self, name)), value) for name in DEFAULTS},
        )


def _biases(given: Mapping[str, float]) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in given.items()}
    except ValueError:
        raise UsageError("logit_bias must map token ids to numbers.") from None
