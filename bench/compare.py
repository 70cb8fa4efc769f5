"""Compares edgellm with llama.cpp and ik_llama.cpp: the same file, prompt and threads, in turn.

    python bench/compare.py -m model.gguf --peer-python /path/to/venv/bin/python -t 2 -r 5
    python bench/compare.py -m model.gguf --before ../an-older-checkout

The peers are those of the packages `llama-cpp-python` and `ik-llama-cpp-python` that the peers' Python has.
With `--before`, another built checkout of edgellm takes its turns, too: a change shows what it costs.
Each engine is a process that stays loaded and makes one measurement at a request, so engines take turns
measurement by measurement: A B C A B C. A ratio is taken within each turn, and the median of the ratios is
reported. The timed part is the engine's own call and the search for the largest logit.

Cold start is a whole process: `edgellm run`, and for a peer a Python that imports it, loads the file, makes a
context and runs a prompt of 8 tokens. Loading to the first token is the same without the start of the process
and its imports, for all engines in their workers. Peak memory is the whole process for edgellm; for a peer,
its Python and NumPy are subtracted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgellm.device.cores import cpu_name, default_threads
from edgellm.engine.kv_types import KV_TYPES
from edgellm.gguf.reader import GGUFFile

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
TEXT = CHECKOUT / "tests/data/text/english.txt"
BEFORE = "edgellm before"
PROBES = {"llama.cpp": "llama_cpp", "ik_llama.cpp": "ik_llama_cpp"}
MEMORY_CONTEXT = 2048
WINDOW = 512
# Threads of the previous engine may still spin; let them fall asleep.
PAUSE_S = 0.05


class Engine:
    """A worker process that takes one request at a time."""

    def __init__(self, name: str, command: Sequence[str], checkout: Path = CHECKOUT) -> None:
        self.name = name
        self.command = command
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(checkout),
        )

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer; RuntimeError if the worker has died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            raise RuntimeError(
                f"{self.name} ended with {code} at `{op}`; its command was {' '.join(self.command)}"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the worker."""
        self.process.communicate()


def environment(checkout: Path) -> dict[str, str]:
    """Environment in which Python imports edgellm from a checkout."""
    inherited = os.environ.get("PYTHONPATH") if checkout == CHECKOUT else None
    return {**os.environ, "PYTHONPATH": inherited or str(checkout)}


def start_once(checkout: Path, model: Path, threads: int, context: int) -> float:
    """Seconds from the start of `edgellm run` of a checkout to its first token."""
    script = (
        "import sys; from pathlib import Path; from edgellm.benchmark.coldstart import cold_start; "
        f"found = cold_start(Path(sys.argv[1]), threads={threads}, context={context}, repetitions=1); "
        "print(found.median_s)"
    )
    command = [sys.executable, "-c", script, str(model)]
    done = subprocess.run(command, env=environment(checkout), capture_output=True, text=True, check=True)
    return float(done.stdout)


@dataclass
class Measure:
    """One row of the table: samples by engine, in the order of the turns."""

    name: str
    unit: str
    higher_is_better: bool
    samples: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, peer: str) -> float:
        """Median of the ratios of each turn: above 1, edgellm is better."""
        pairs = list(zip(self.samples["edgellm"], self.samples[peer], strict=True))
        return statistics.median(a / b if self.higher_is_better else b / a for a, b in pairs)

    def as_dict(self) -> dict[str, Any]:
        """All samples, for JSON."""
        peers = [name for name in self.samples if name != "edgellm"]
        return {
            "name": self.name,
            "unit": self.unit,
            "samples": self.samples,
            "median": {name: statistics.median(values) for name, values in self.samples.items()},
            "min": {name: min(values) for name, values in self.samples.items()},
            "max": {name: max(values) for name, values in self.samples.items()},
            "ratio": {name: self.ratio(name) for name in peers},
        }


class Comparison:
    """One model, all engines."""

    def __init__(
        self, model: Path, engines: dict[str, list[str]], options: argparse.Namespace, trained: int | None
    ) -> None:
        self.model = model
        self.commands = engines
        self.options = options
        # Of memory and starts, as far as the model was trained.
        self.context = min(MEMORY_CONTEXT, trained or MEMORY_CONTEXT)
        self.depth = options.depth if trained is None else min(options.depth, max(0, trained - 256))
        self.measures: list[Measure] = []
        self.quality: dict[str, dict[str, Any]] = {name: {} for name in engines}
        self.engines = {name: self._start(name) for name in engines}
        self.info = {name: engine.ask("info") for name, engine in self.engines.items()}
        for engine in self.engines.values():
            engine.ask("load", model=str(model))
        text = TEXT.read_text(encoding="utf-8")
        ids = {n: e.ask("tokenize", text=text, add_special=True)["ids"] for n, e in self.engines.items()}
        self.ids: list[int] = ids["edgellm"]
        for name in engines:
            self.quality[name]["same_tokens"] = ids[name] == self.ids
        plain = self.engines["edgellm"].ask("tokenize", text=text, add_special=False)["ids"]
        self.bos = None if plain[0] == self.ids[0] else self.ids[0]

    def run(self) -> None:
        """Make the requested measurements."""
        options = self.options
        n_prompt, n_gen = options.n_prompt, options.n_gen
        ids = self.ids
        self._open(max(self.context, n_prompt + n_gen))
        self._turns(f"prefill {n_prompt}", n_prompt, lambda e: e.ask("prefill", ids=ids[:n_prompt]))
        self._turns(f"decode {n_gen}", n_gen, lambda e: self._generate(e, ids[:16], n_gen, keep=False))
        if self.depth:
            # Text for a depth beyond the sample's length: the sample again.
            prefix = (ids * (self.depth // len(ids) + 1))[: self.depth]
            n_deep = min(n_gen, 64)
            self._open(self.depth + n_deep + 64)
            for engine in self.engines.values():
                engine.ask("generate", ids=prefix, n=1, keep=False)
            name = f"decode {n_deep} at depth {self.depth}"
            self._turns(
                name, n_deep, lambda e: e.ask("generate", ids=prefix, n=n_deep, keep=True), warmup=False
            )
        if options.sequences > 1:
            prompts = [ids[16 * i : 16 * i + 16] for i in range(options.sequences)]
            self._open(256, options.sequences)
            name = f"decode {options.sequences} sequences x 32"
            work = 32 * options.sequences
            self._turns(name, work, lambda e: e.ask("generate_many", prompts=prompts, n=32))
        if options.n_text:
            self._open(max(WINDOW, 512))
            for name, engine in self.engines.items():
                answer = engine.ask("perplexity", ids=ids[: options.n_text], window=WINDOW, bos=self.bos)
                self.quality[name].update(answer)
        for engine in self.engines.values():
            engine.close()
        self._starts()

    def _checkout(self, name: str) -> Path:
        return Path(self.options.before) if name == BEFORE else CHECKOUT

    def _start(self, name: str) -> Engine:
        return Engine(name, self.commands[name], self._checkout(name))

    def _generate(self, engine: Engine, ids: list[int], n: int, *, keep: bool) -> dict[str, Any]:
        answer = engine.ask("generate", ids=ids, n=n, keep=keep)
        digest = hashlib.sha256(json.dumps(answer["ids"]).encode()).hexdigest()[:16]
        self.quality[engine.name]["tokens_hash"] = digest
        return answer

    def _open(self, context: int, sequences: int = 1) -> None:
        for engine in self.engines.values():
            engine.ask("open", context=context, threads=self.options.threads, sequences=sequences)

    def _turns(
        self, name: str, work: int, once: Callable[[Engine], dict[str, Any]], *, warmup: bool = True
    ) -> None:
        measure = Measure(name, "tok/s", higher_is_better=True, samples={n: [] for n in self.engines})
        for turn in range(self.options.repetitions + warmup):
            for engine in self.engines.values():
                time.sleep(PAUSE_S)
                seconds = once(engine)["seconds"]
                if turn >= warmup:
                    measure.samples[engine.name].append(work / seconds)
        self._add(measure)

    def _starts(self) -> None:
        """Cold start and peak memory, each from a process of its own."""
        threads = self.options.threads
        cold = Measure("cold start to first token, whole process", "s", False, self._samples())
        load = Measure("loading to first token, process running", "s", False, self._samples())
        peak = Measure(f"peak memory, context {self.context}", "MiB", False, self._samples())
        for _ in range(self.options.repetitions):
            for name in self.commands:
                time.sleep(PAUSE_S)
                start = time.perf_counter()
                engine = self._start(name)
                info = engine.ask("info")
                begin = time.perf_counter()
                engine.ask("load", model=str(self.model))
                engine.ask("open", context=self.context, threads=threads, sequences=1)
                engine.ask("prefill", ids=self.ids[:8])
                end = time.perf_counter()
                load.samples[name].append(end - begin)
                engine.ask("generate", ids=self.ids[: self.options.n_prompt], n=16, keep=False)
                ours = name in ("edgellm", BEFORE)
                baseline = 0 if ours else int(info["baseline_bytes"])
                peak.samples[name].append((engine.ask("memory")["peak_bytes"] - baseline) / (1 << 20))
                engine.close()
                whole = end - start
                if ours:
                    whole = start_once(self._checkout(name), self.model, threads, self.context)
                cold.samples[name].append(whole)
        self._add(cold)
        self._add(load)
        self._add(peak)

    def _samples(self) -> dict[str, list[float]]:
        return {name: [] for name in self.commands}

    def _add(self, measure: Measure) -> None:
        self.measures.append(measure)
        shown = ", ".join(f"{n} {statistics.median(v):.4g}" for n, v in measure.samples.items())
        print(f"{self.model.name}: {measure.name}: {shown} {measure.unit}", file=sys.stderr)

    def as_dict(self) -> dict[str, Any]:
        """All measurements, for JSON."""
        return {
            "model": self.model.name,
            "threads": self.options.threads,
            "cpu": cpu_name(),
            "engines": self.info,
            "measures": [measure.as_dict() for measure in self.measures],
            "quality": self.quality,
        }


def markdown(results: Sequence[dict[str, Any]]) -> str:
    """Write results as one table per model."""
    lines = []
    for result in results:
        engines = list(result["engines"])
        peers = engines[1:]
        lines += [f"## {result['model']}, {result['threads']} threads, {result['cpu']}", ""]
        for name, info in result["engines"].items():
            lines.append(f"- {name} {info['version']}: {info['features']}")
        head = ["", *engines, *(f"against {peer}" for peer in peers)]
        lines += ["", _cells(head), _cells(["---", *["--:"] * (len(head) - 1)])]
        for measure in result["measures"]:
            cells = [f"{measure['name']} ({measure['unit']})"]
            for name in engines:
                spread = f"({measure['min'][name]:.4g} to {measure['max'][name]:.4g})"
                cells.append(f"{measure['median'][name]:.4g} {spread}")
            cells += [f"{measure['ratio'][peer]:.2f} x" for peer in peers]
            lines.append(_cells(cells))
        for key, title in (
            ("perplexity", "perplexity"),
            ("tokens_hash", "greedy tokens"),
            ("same_tokens", "tokenizes alike"),
        ):
            values = [result["quality"][name].get(key) for name in engines]
            if all(value is None for value in values):
                continue
            cells = [f"{v:.4f}" if isinstance(v, float) else str(v) for v in values]
            lines.append(_cells([title, *cells, *[""] * len(peers)]))
        lines.append("")
    return "\n".join(lines)


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def find_engines(options: argparse.Namespace) -> dict[str, list[str]]:
    """Commands of edgellm's worker, of an older checkout's and of each peer's."""
    arguments = ["--kv-type", options.kv_type, *(["--isa", options.isa] if options.isa else [])]
    commands = {"edgellm": [sys.executable, str(HERE / "edgellm_worker.py"), *arguments]}
    if options.before:
        commands[BEFORE] = [sys.executable, str(options.before / "bench/edgellm_worker.py"), *arguments]
    return {**commands, **peer_commands(options.peer_python or [sys.executable])}


def peer_commands(pythons: Sequence[str]) -> dict[str, list[str]]:
    """Commands of the workers of each peer that one of the Pythons has; the first Python wins."""
    commands: dict[str, list[str]] = {}
    for python in pythons:
        for name, package in PROBES.items():
            probe = [
                python,
                "-c",
                f"import importlib.util as u, sys; sys.exit(u.find_spec('{package}') is None)",
            ]
            if name not in commands and subprocess.run(probe, check=False).returncode == 0:
                commands[name] = [python, str(HERE / "peer_worker.py"), name]
    return commands


def main() -> int:
    """Compare on every model; writes Markdown to stdout, and JSON if requested."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("-m", "--model", required=True, help="GGUF files, with commas between")
    add("--peer-python", action="append", help="a Python that has peers installed (may be repeated)")
    add("--before", type=Path, metavar="CHECKOUT", help="another built checkout of edgellm, to compare with")
    add("-t", "--threads", type=int, default=default_threads())
    add("-r", "--repetitions", type=int, default=5)
    add("-p", "--n-prompt", type=int, default=512)
    add("-n", "--n-gen", type=int, default=128)
    add("-d", "--depth", type=int, default=4096, help="0: no decoding at a depth")
    add("-b", "--sequences", type=int, default=8, help="1: no decoding of several sequences")
    add("--n-text", type=int, default=4096, help="tokens of text for perplexity, 2 or more; 0: none")
    add("--isa", default="", help="edgellm's instruction set; otherwise the best")
    add(
        "--kv-type",
        default="auto",
        choices=("auto", *KV_TYPES),
        help="how edgellm keeps keys and values",
    )
    add("--json", type=Path, help="also write everything measured to this file")
    options = parser.parse_args()
    if options.n_text < 0 or options.n_text == 1:
        parser.error(f"argument --n-text: {options.n_text} tokens predict none; expected 0, or 2 or more")
    commands = find_engines(options)
    if len(commands) == 1:
        parser.error(
            "no peer is installed; name a Python that has llama-cpp-python with --peer-python, "
            "or a checkout with --before"
        )
    results = []
    for name in options.model.split(","):
        path = Path(name)
        with GGUFFile.open(path) as file:
            trained = file.metadata.get(f"{file.metadata['general.architecture']}.context_length")
        comparison = Comparison(path, commands, options, trained if isinstance(trained, int) else None)
        comparison.run()
        results.append(comparison.as_dict())
    print(markdown(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
