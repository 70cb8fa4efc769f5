"""`edgellm bench`: speed of a model here, and its share of the machine's limits."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm.commands.loading import find_model, load_options
from edgellm.commands.options import (
    BACKEND,
    DRAFT_MAX,
    DRAFTING,
    INT,
    ISA,
    KV_TYPE,
    MAX_MEMORY,
    OFFLINE,
    SWITCH,
    TEXT,
    Command,
    Kind,
    Option,
    Positional,
)
from edgellm.commands.settings import Settings
from edgellm.errors import UsageError

if TYPE_CHECKING:
    from edgellm.benchmark.coldstart import ColdStart
    from edgellm.benchmark.recording import Recorder
    from edgellm.benchmark.report import Row
    from edgellm.benchmark.runner import Runner, Trial
    from edgellm.device.limits import Limits

# Most threads for each CPU of the machine; more would only wait.
_THREADS_PER_CPU = 4
_FORMATS = ("md", "json", "jsonl", "csv")


def run(settings: Settings) -> int:
    """Benchmark every model with every thread count; rows go to stdout in the chosen format."""
    from edgellm.benchmark.report import render

    words = list(settings["words"])
    if words and words[0] == "compare":
        from edgellm.commands.records import compare

        return compare(words[1:], settings["html"])
    if words and settings["model"] is not None:
        raise UsageError(f"{words[0]!r} and -m both name models; give one of them")
    named = ",".join(words) or settings["model"]
    threads = _threads(settings["threads"])
    tests = make_tests(settings)
    if settings["repetitions"] < 1:
        raise UsageError(f"-r is {settings['repetitions']}; at least one repetition is needed.")
    paths = [find_model(name, settings) for name in _names(named)]
    form = settings["output"]

    def rows(recorder: Recorder | None = None) -> list[Row]:
        found = []
        for row in measure(paths, threads, tests, settings, recorder):
            found.append(row)
            print(f"{row['model_type']} {row['test']}: {row['avg_ts']:.2f} tok/s", file=sys.stderr)
            if form == "jsonl":
                sys.stdout.write(render([row], form))
                sys.stdout.flush()
        return found

    found = _recorded(paths, threads, settings, rows)
    if form != "jsonl":
        sys.stdout.write(render(found, form))
    return 0


def _recorded(
    paths: list[Path], threads: list[int], settings: Settings, rows: Callable[[Recorder | None], list[Row]]
) -> list[Row]:
    """The rows; measured under watch if they are to be saved."""
    if settings["save"] is None:
        if settings["sustain"]:
            raise UsageError("--sustain needs --save FILE.json, which holds the speed over time")
        return rows(None)
    if len(paths) > 1 or len(threads) > 1:
        raise UsageError("--save records one model with one number of threads; give one of each")
    if settings["draft"] is not None or settings["draft_max"]:
        raise UsageError("--save records answers without speculative decoding; leave -md and --draft-max out")
    from edgellm.commands.records import record

    return record(paths[0], Path(settings["save"]), rows)


def measure(
    paths: list[Path],
    threads: list[int],
    tests: list[Trial],
    settings: Settings,
    recorder: Recorder | None = None,
) -> Iterator[Row]:
    """Run every test on every model with every thread count, and yield a row for each."""
    from edgellm.benchmark.coldstart import cold_start, cold_start_context
    from edgellm.benchmark.runner import Runner, cache_tokens
    from edgellm.device.limits import measure_limits

    limits = {n: measure_limits(n, settings["isa"]) for n in threads} if settings["limits"] else {}
    for path in paths:
        for n in threads:
            context = settings["context"] or max(test.length for test in tests)
            options = load_options(
                settings,
                threads=n,
                context=context,
                cache_tokens=cache_tokens(tests),
                batch=max(settings["ubatch"], *(test.n_parallel for test in tests)),
            )
            runner = Runner(path, options, tests)
            try:
                cold = None
                if settings["cold"]:
                    room = cold_start_context(runner.plan.n_ctx, runner.plan.program.n_ctx_train)
                    cold = cold_start(path, threads=n, context=room, repetitions=3)
                yield from _rows(runner, tests, settings["repetitions"], limits.get(n), cold, recorder)
                if recorder is not None and settings["sustain"]:
                    from edgellm.commands.records import say

                    longest = next((test for test in reversed(tests) if test.n_gen), tests[-1])
                    recorder.sustain(runner, longest, settings["sustain"], say)
            finally:
                runner.close()


def _rows(
    runner: Runner,
    tests: list[Trial],
    repetitions: int,
    limits: Limits | None,
    cold: ColdStart | None,
    recorder: Recorder | None,
) -> Iterator[Row]:
    from edgellm.benchmark.report import make_row

    for test in tests:
        if recorder is None:
            yield make_row(runner, runner.run(test, repetitions), limits, cold)
            continue
        began_s = recorder.now_s
        result = runner.run(test, repetitions)
        yield recorder.add(runner, result, make_row(runner, result, limits, cold), began_s)


def make_tests(settings: Settings) -> list[Trial]:
    """Tests of the options: every -p, every -n and every -pg, at every depth and batch."""
    from edgellm.benchmark.runner import Trial

    pairs = [(n, 0) for n in settings["prompts"] if n] + [(0, n) for n in settings["gens"] if n]
    pairs += _pairs(settings["prompt_gens"])
    context = settings["context"]
    for flag, values, low in (
        ("-p", settings["prompts"], 0),
        ("-n", settings["gens"], 0),
        ("-d", settings["depths"], 0),
        ("-b", settings["parallel"], 1),
        ("-ub", [settings["ubatch"]], 1),
        ("-c", [] if context is None else [context], 1),
        ("-pg", [n for pair in pairs for n in pair], 0),
    ):
        for value in values:
            if value < low:
                raise UsageError(f"{flag} is {value}; it must be at least {low}.")
    tests = [
        Trial(n_prompt, n_gen, depth, batch)
        for depth in settings["depths"]
        for batch in settings["parallel"]
        for n_prompt, n_gen in pairs
    ]
    if not tests:
        raise UsageError(
            "There is nothing to time: give a prompt (-p 512), an answer (-n 128), or both (-pg 512,128)."
        )
    return tests


def _pairs(texts: list[str] | None) -> list[tuple[int, int]]:
    pairs = []
    for text in texts or []:
        try:
            numbers = _integers(text)
        except ValueError:
            numbers = []
        if len(numbers) != 2 or not any(numbers):
            raise UsageError(f"-pg is {text!r}; it must be two numbers such as 512,128.")
        pairs.append((numbers[0], numbers[1]))
    return pairs


def _threads(asked: list[int] | None) -> list[int]:
    from edgellm.device.cores import default_threads

    if asked is None:
        return [default_threads()]
    most = _THREADS_PER_CPU * (os.cpu_count() or 1)
    for value in asked:
        if not 1 <= value <= most:
            raise UsageError(f"-t is {value}; on this machine it must lie in 1..{most}.")
    return asked


def _names(text: str | None) -> list[str | None]:
    """Model names, split at commas unless a file has the whole name; None: the default model."""
    if text is None or os.path.exists(text):
        return [text]
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UsageError(f"-m is {text!r}; between commas there must be a model.")
    return list(names)


def _integers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number, or several with commas between") from None


def _check_integers(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    if not values or any(isinstance(n, bool) or not isinstance(n, int) for n in values):
        raise ValueError(f"{value!r} is not a whole number or a list of them")
    return values


def _drafting(option: Option) -> Option:
    """An option of speculative decoding, with its meaning in a benchmark."""
    if option is not DRAFT_MAX:
        return option
    return option._replace(help="most draft tokens in a step, as chat has them; otherwise, without -md, none")


def _duration(value: Any) -> float:
    from edgellm.server.durations import duration

    seconds = duration(value)
    if not 0 <= seconds <= 86400:
        raise ValueError(f"{value!r} is not a length of time up to a day, such as 10m")
    return seconds


DURATION = Kind("duration", _duration, _duration)
INTS = Kind("ints", _integers, _check_integers)

COMMAND = Command(
    summary="Measure how fast a model runs on this machine.",
    run=run,
    description="Times prompts and answers, and says what share of the machine's measured memory bandwidth\n"
    "and arithmetic they use. Where an option takes N,N every combination is measured.\n\n"
    "--save FILE.json writes a record: the device, its limits, temperature, clock, throttling and\n"
    "power before, during and after the tests, and a check of the tokens. Answers and prompts are\n"
    "bursts; --sustain 10m goes on for minutes, as a warm device does.\n\n"
    "`edgellm bench compare A.json B.json` prints records side by side with confidence intervals,\n"
    "and writes a page with plots (compare.html).",
    positionals=(Positional("words", "a model, as -m has it; or: compare A.json B.json ...", "*"),),
    options=(
        Option(
            "model",
            ("-m", "--model"),
            "one model or several with commas between: path, name, user/repo:QUANT",
            TEXT,
            "MODEL",
        ),
        Option("prompts", ("-p", "--n-prompt"), "tokens of a prompt; 0: none", INTS, "N,N", default=[512]),
        Option("gens", ("-n", "--n-gen"), "tokens of an answer; 0: none", INTS, "N,N", default=[128]),
        Option(
            "prompt_gens",
            ("-pg",),
            "a prompt and an answer timed together (may be repeated)",
            TEXT,
            "P,N",
            repeated=True,
        ),
        Option("depths", ("-d", "--n-depth"), "untimed tokens before the test", INTS, "N,N", default=[0]),
        Option("threads", ("-t", "--threads"), "threads; otherwise one per fast core", INTS, "N,N"),
        Option("parallel", ("-b", "--batch"), "sequences at once", INTS, "N,N", default=[1]),
        Option("repetitions", ("-r", "--repetitions"), "times each test is run", INT, "N", default=5),
        Option("output", ("-o", "--output"), "how rows are written", TEXT, default="md", choices=_FORMATS),
        Option("context", ("-c", "--ctx-size"), "context in tokens; otherwise what the tests need", INT, "N"),
        Option(
            "ubatch",
            ("-ub", "--ubatch-size"),
            "most tokens of a step",
            INT,
            "N",
            default=256,
        ),
        KV_TYPE,
        BACKEND,
        ISA,
        MAX_MEMORY,
        *(_drafting(option) for option in DRAFTING),
        Option("limits", ("--limits",), "measure the machine's limits first", SWITCH, default=True),
        Option("cold", ("--cold",), "time starts from nothing to the first token", SWITCH, default=True),
        Option("save", ("--save",), "write a record of the device and the figures", TEXT, "FILE.json"),
        Option(
            "sustain", ("--sustain",), "after the tests, repeat the last answer for so long", DURATION, "10m"
        ),
        Option("html", ("--html",), "page that compare writes; otherwise compare.html", TEXT, "FILE"),
        OFFLINE,
    ),
    examples=(
        ("edgellm bench", "the default model"),
        ("edgellm bench -m a.gguf,b.gguf -t 1,2", "two models, one and two threads"),
        ("edgellm bench -m a.gguf -p 0 -n 64 -d 4096", "answers after 4096 tokens"),
        ("edgellm bench -m a.gguf -p 0 -n 128 --draft-max 7", "answers with speculative decoding"),
        ("edgellm bench -m a.gguf -p 0 -b 1,8 -o json", "one and eight sequences at once"),
        ("edgellm bench a.gguf --save pi5.json --sustain 10m", "a record, with ten minutes of answers"),
        ("edgellm bench compare pi5.json laptop.json", "two records side by side"),
    ),
)
