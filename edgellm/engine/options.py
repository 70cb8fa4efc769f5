"""Options of one generation, as a caller gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, NamedTuple

from edgellm.engine.sampling_params import RANGES, SamplingParams, check_logit_bias, check_range
from edgellm.errors import UsageError

# A grammar of calls holds the schemas of all tools.
MAX_CHARS = {"regex": 64 * 1024, "grammar": 8 * 1024 * 1024}


class Constraint(NamedTuple):
    """Constraint on an answer: a JSON schema, a regular expression, or a grammar in Lark or GBNF."""

    kind: Literal["schema", "regex", "grammar"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class GenerateOptions:
    """How to continue a prompt. None means the file's own default, or else the value in brackets.

    max_tokens: most tokens of the answer (None: until the context is full). temperature: 0 always takes the
    likeliest token (0.8). top_k: keep the k likeliest tokens, 0 keeps all (40). top_p: keep the likeliest
    tokens that together have this probability (0.95). min_p: drop tokens below this fraction of the likeliest
    token's probability (0.05). repeat_penalty (1.0), presence_penalty (0.0), frequency_penalty (0.0): applied
    to tokens among the last `penalty_last_n` (64; -1: all, 0: none). seed: the same seed, prompt and options
    give the same tokens; None draws one. stop: texts that end the answer; they are not part of it.
    logit_bias: token id -> value added to its logit (-inf forbids it). logprobs: number of likeliest
    alternatives reported beside each token's log probability; None: no report. ignore_eos: an
    end-of-generation token does not end the answer, unless a grammar ends there.

    schema: JSON schema (an object or its text) that the answer must be valid against. regex: regular
    expression that it must match as a whole. grammar: grammar in Lark or GBNF. json: any JSON object. At most
    one of these four may be given; an answer cut off by max_tokens is a prefix of one that fits. lora:
    adapters by name or number and their scales; those not named are not used (None: as loaded).
    think_budget: most tokens of thought, after which the thought is ended as the model ends one; it has no
    effect without thoughts (None: no limit).

    Raises UsageError for a value out of range.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    penalty_last_n: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_until: str | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    ignore_eos: bool = False
    schema: Mapping[str, Any] | str | None = None
    regex: str | None = None
    grammar: str | None = None
    json: bool = False
    lora: Mapping[str | int, float] | None = None
    think_budget: int | None = None

    def __post_init__(self) -> None:
        stop: object = self.stop
        object.__setattr__(self, "stop", (stop,) if isinstance(stop, str) else tuple(self.stop))
        for name in RANGES:
            if getattr(self, name) is not None:
                check_range(name, getattr(self, name))
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise UsageError(f"stop must hold non-empty texts, not {text!r}.")
        check_logit_bias(self.logit_bias)
        if self.schema is not None:
            from edgellm.chat.schema import read_schema

            object.__setattr__(self, "schema", read_schema(self.schema))
        for name in ("regex", "grammar"):
            _check_grammar(name, getattr(self, name))
        given = [name for name in ("schema", "regex", "grammar") if getattr(self, name) is not None]
        if len(given) + self.json > 1:
            names = " and ".join([*given, *(["json"] if self.json else [])])
            raise UsageError(f"{names} are given together; an answer can follow only one of them.")

    def __repr__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        given = (
            f"{name}={v!r}" for name, v in values.items() if v is not None and v is not False and v != ()
        )
        return f"GenerateOptions({', '.join(text for text in given if text != 'logit_bias={}')})"

    @property
    def constraint(self) -> Constraint | None:
        """Constraint that the answer must follow; None: it is free text."""
        schema = {"type": "object"} if self.json else self.schema
        if schema is not None:
            import json

            return Constraint("schema", json.dumps(schema, ensure_ascii=False))
        if self.regex is not None:
            return Constraint("regex", self.regex)
        return None if self.grammar is None else Constraint("grammar", self.grammar)

    def resolve(self, defaults: Mapping[str, Any]) -> SamplingParams:
        """Sampling values: those given here, else those in `defaults` (of the file), else built-in ones."""
        own = {f.name: getattr(self, f.name) for f in fields(SamplingParams)}
        given = {name: value for name, value in own.items() if value is not None}
        return SamplingParams(**{**defaults, **given})


# Names that other libraries have for an option.
_OTHER_NAMES = {
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "temp": "temperature",
    "repetition_penalty": "repeat_penalty",
    "repeat_last_n": "penalty_last_n",
    "stop_strings": "stop",
    "json_schema": "schema",
    "response_format": "schema",
}


def changed(
    options: GenerateOptions | None, changes: Mapping[str, Any], also: Sequence[str] = ()
) -> GenerateOptions:
    """Options with those given as keywords; UsageError for an unknown one names the one that may be meant.

    also: other keywords of the call, for the message.
    """
    if not changes:
        return options or GenerateOptions()
    known = [f.name for f in fields(GenerateOptions)]
    for name in changes:
        if name not in known:
            raise UsageError(_unknown(name, [*known, *also]))
    return replace(options, **changes) if options is not None else GenerateOptions(**changes)


def _unknown(name: str, known: Sequence[str]) -> str:
    import difflib

    near = [_OTHER_NAMES[name]] if name in _OTHER_NAMES else difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "GenerateOptions lists the options."
    if "template_variables" in known:
        hint += f' A variable of the chat template goes into template_variables={{"{name}": ...}}.'
    return f"{name} is not an option; {hint}"


def _check_grammar(name: str, text: object) -> None:
    if text is None:
        return
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{name} must be a text that is not empty, not {text!r}.")
    if len(text) > MAX_CHARS[name]:
        raise UsageError(f"{name} is {len(text)} characters long; at most {MAX_CHARS[name]} are accepted.")


# GGUF key -> option: the sampling keys of GGUF files since 2025.
_METADATA_KEYS = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repeat_penalty",
    "general.sampling.penalty_last_n": "penalty_last_n",
}


def sampling_defaults(metadata: Mapping[str, Any]) -> dict[str, float | int]:
    """Sampling values that a file recommends, by option name; UsageError if one is out of range."""
    found = {option: metadata[key] for key, option in _METADATA_KEYS.items() if key in metadata}
    try:
        GenerateOptions(**found)
    except UsageError as error:
        raise UsageError(f"The file's general.sampling.* metadata cannot be used: {error}") from None
    return found
