"""Commands and the options that they share.

A command is one file here that defines `COMMAND`, and one line in `cli.COMMANDS`. Its options are data: each
one can be given as a flag, as `EDGELLM_NAME` in the environment, or in the configuration file
(`settings.resolve` has their order).

The parser is the standard library's. On a machine where the engine's first token takes 0.3 s, importing
argparse takes 6 ms, click 23 ms, typer 39 ms and typer with rich 57 ms (best of many, Python 3.11).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from edgellm.engine.kv_types import KV_TYPES
from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm.commands.settings import Settings


class Kind(NamedTuple):
    """Type of a value: `parse` reads flags and variables, `check` configuration values."""

    name: str
    parse: Callable[[str], Any]
    check: Callable[[Any], Any]


class Option(NamedTuple):
    """One option; `name` is its key in the configuration file and, in capitals, the end of its variable."""

    name: str
    flags: tuple[str, ...]
    help: str
    kind: Kind
    metavar: str = ""
    default: Any = None
    choices: tuple[str, ...] = ()
    repeated: bool = False

    @property
    def variable(self) -> str:
        """The environment variable that sets this option."""
        return f"EDGELLM_{self.name.upper()}"


class Positional(NamedTuple):
    """An argument without a flag: `nargs` is "?", "*", "+" or "1"."""

    name: str
    help: str
    nargs: str = "?"


class Command(NamedTuple):
    """One verb. `run` returns the exit status; EdgeLLMError becomes one sentence on stderr."""

    summary: str
    run: Callable[[Settings], int]
    description: str = ""
    positionals: tuple[Positional, ...] = ()
    options: tuple[Option, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()


def _integer(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if math.isnan(value):
        raise ValueError("nan is not a number that can be used")
    return value


def _switch(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("", "0", "false", "no", "off"):
        return False
    raise ValueError(f"{text!r} is neither true nor false")


# A size below it was not meant in bytes.
SMALLEST_PLAIN = 1 << 20


def _bytes(text: str) -> int:
    units = {"k": 1, "m": 2, "g": 3}
    body = text.strip().lower().removesuffix("b")
    base = 1024 if body.endswith("i") else 1000
    body = body.removesuffix("i")
    power = units.get(body[-1:], 0)
    try:
        size = int(float(body[:-1] if power else body) * base**power)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a size such as 900M, 2G or 2GiB") from None
    if not power and 0 < size < SMALLEST_PLAIN:
        raise ValueError(f"{text!r} has no unit, and so few bytes hold nothing; {text}G are gigabytes")
    return size


def _bias(text: str) -> tuple[int, float]:
    for position, char in enumerate(text):
        if char in "+-=" and position:
            token, value = text[:position], text[position:].removeprefix("=")
            return _integer(token), _number(value)
    raise ValueError(
        f"{text!r} is not of the form TOKEN+BIAS, TOKEN-BIAS or TOKEN=BIAS, such as 2-1.5 or 2=-inf"
    )


def _typed(kind: type | tuple[type, ...], expected: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, kind):
            raise ValueError(f"{value!r} is not {expected}")
        return value

    return check


def _typed_bytes(value: Any) -> int:
    return _bytes(value) if isinstance(value, str) else int(_typed(int, "a size")(value))


def _typed_bias(value: Any) -> tuple[int, float]:
    return _bias(_typed(str, "a text such as '2-1.5'")(value))


TEXT = Kind("text", str, _typed(str, "a text"))
INT = Kind("int", _integer, _typed(int, "a whole number"))
FLOAT = Kind("float", _number, _typed((int, float), "a number"))
SWITCH = Kind("switch", _switch, _typed(bool, "true or false"))
BYTES = Kind("bytes", _bytes, _typed_bytes)
BIAS = Kind("bias", _bias, _typed_bias)

MODEL = Option(
    "model",
    ("-m", "--model"),
    "path of a GGUF file, name (`edgellm list`), or user/repo:QUANT",
    TEXT,
    "MODEL",
)
THREADS = Option(
    "threads", ("-t", "--threads"), "threads; otherwise one per fast core of this process", INT, "N"
)
CONTEXT = Option(
    "context",
    ("-c", "--ctx-size", "--context"),
    "tokens of a conversation; 0: the trained context; otherwise that, at most 32768, if memory allows",
    INT,
    "N",
)
BATCH = Option("batch", ("-b", "--batch-size"), "most tokens of a step", INT, "N", default=256)
KV_TYPE = Option(
    "kv_type",
    ("--kv-type",),
    "type of the KV cache; "
    + "".join(f"{name}: {kv.description}; " for name, kv in KV_TYPES.items() if kv.description)
    + "auto: f32 for a model of f32 weights, else the faster type of 16 bits here",
    TEXT,
    default="auto",
    choices=("auto", *KV_TYPES),
)
ISA = Option("isa", ("--isa",), "instruction set; otherwise the best of this CPU", TEXT, "NAME", default="")
BACKEND = Option(
    "backend",
    ("--backend",),
    "engine to use; auto: onnx for a folder in ONNX form, or else native",
    TEXT,
    default="auto",
    choices=("auto", "native", "onnx", "llama_cpp", "interpreter"),
)
MAX_MEMORY = Option(
    "max_memory", ("--max-memory",), "most memory of the model, such as 900M or 2G", BYTES, "SIZE"
)

MAX_TEMP = Option(
    "max_temp",
    ("--max-temp",),
    "degrees Celsius of the processor that short rests keep to, at an even pace",
    FLOAT,
    "DEGREES",
)
ON_BATTERY = Option(
    "on_battery",
    ("--on-battery",),
    "on a battery, full: as fast as on the mains; eco: half as fast",
    TEXT,
    default="full",
    choices=("full", "eco"),
)

DRAFT_MAX = Option(
    "draft_max",
    ("--draft-max",),
    "most draft tokens of an answer that a step verifies; 0: no speculative decoding; otherwise 7",
    INT,
    "N",
)
DRAFT = Option(
    "draft",
    ("-md", "--draft", "--model-draft"),
    "draft model: a smaller one of the same vocabulary; answers do not depend on it",
    TEXT,
    "MODEL",
)
DRAFTING = (DRAFT_MAX, DRAFT)

LORA = Option(
    "lora",
    ("--lora",),
    "LoRA adapter, GGUF or PEFT folder, and its scale; 0: loaded, not used (may be repeated)",
    TEXT,
    "FILE[=SCALE]",
    repeated=True,
)

PACE = (MAX_TEMP, ON_BATTERY)

LOADING = (MODEL, CONTEXT, THREADS, BATCH, KV_TYPE, ISA, BACKEND, MAX_MEMORY, LORA)


def _sampling(
    name: str, flags: str, kind: Kind, metavar: str, text: str, *, repeated: bool = False
) -> Option:
    return Option(name, tuple(flags.split()), text, kind, metavar, repeated=repeated)


SAMPLING = (
    _sampling(
        "max_tokens",
        "-n --predict --max-tokens",
        INT,
        "N",
        "most tokens of an answer; -1: until the context is full",
    ),
    _sampling(
        "temperature",
        "--temp --temperature",
        FLOAT,
        "X",
        "0: always the likeliest token; higher: more varied",
    ),
    _sampling("top_k", "--top-k", INT, "N", "choose among the N likeliest tokens; 0: all"),
    _sampling(
        "top_p",
        "--top-p",
        FLOAT,
        "P",
        "choose among the likeliest tokens that together have this probability",
    ),
    _sampling("min_p", "--min-p", FLOAT, "P", "drop tokens below this fraction of the likeliest one's"),
    _sampling("seed", "-s --seed", INT, "N", "the same seed gives the same answer; -1: a new one each time"),
    _sampling("repeat_penalty", "--repeat-penalty", FLOAT, "X", "above 1: avoid recent tokens"),
    _sampling("presence_penalty", "--presence-penalty", FLOAT, "X", "above 0: avoid tokens that occurred"),
    _sampling(
        "frequency_penalty",
        "--frequency-penalty",
        FLOAT,
        "X",
        "above 0: avoid tokens by how often they occurred",
    ),
    _sampling(
        "penalty_last_n", "--repeat-last-n", INT, "N", "last tokens that penalties count; -1: all, 0: none"
    ),
    _sampling(
        "stop", "--stop", TEXT, "TEXT", "end the answer before this text (may be repeated)", repeated=True
    ),
    _sampling(
        "logit_bias",
        "-l --logit-bias",
        BIAS,
        "TOKEN+BIAS",
        "make a token likelier (2+1.5), less likely (2-1.5) or impossible (2=-inf) (may be repeated)",
        repeated=True,
    ),
)
THINK = Option(
    "think",
    ("--think",),
    "how much the model thinks before it answers; otherwise as its chat template has it",
    TEXT,
    choices=("on", "off", "low", "medium", "high"),
)
THINK_BUDGET = Option(
    "think_budget",
    ("--think-budget",),
    "most tokens of thought, after which the thought is ended",
    INT,
    "N",
)
HIDE_THINKING = Option(
    "hide_thinking",
    ("--hide-thinking",),
    "print no thoughts; otherwise they are dimmed on standard error, if that is a terminal",
    SWITCH,
    default=False,
)
THINKING = (THINK, THINK_BUDGET, HIDE_THINKING)
SYSTEM = Option(
    "system", ("--system", "-sys"), "system prompt: instructions before the conversation", TEXT, "TEXT"
)
OFFLINE = Option("offline", ("--offline",), "never touch the network", SWITCH, default=False)
JSON = Option("json", ("--json",), "print JSON", SWITCH, default=False)

SHARED = (*LOADING, *PACE, *DRAFTING, *SAMPLING, *THINKING, SYSTEM, OFFLINE, JSON)


def check_choice(option: Option, value: Any) -> Any:
    """The value; UsageError if the option lists choices without it."""
    if option.choices and value not in option.choices:
        raise UsageError(f"{option.flags[0]} is {value!r}, expected one of {', '.join(option.choices)}")
    return value


def bias_table(pairs: object) -> Mapping[int, float]:
    """Pairs of the `logit_bias` option as a mapping; a later pair wins."""
    return dict(pairs) if isinstance(pairs, list) else {}
