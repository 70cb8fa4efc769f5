"""Fuzzer of model files: each broken model must answer, or be refused with an error of the package.

    python -m tests.fuzz_models --count 100000

It starts from the reference models under tests/data, and from those of the shared folder if that exists. A
mutant that crashes, hangs, or raises any other error is kept in --keep under its seed, which makes it again
(--first SEED --count 1, with the same models to start from). To find more than crashes, build the engine with
-DEDGELLM_SANITIZE=address, and set LD_PRELOAD to libasan.so and libstdc++.so and ASAN_OPTIONS=detect_leaks=0.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import pytest

from edgellm.engine.describe import describe
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from edgellm.engine.options import GenerateOptions
from edgellm.errors import EdgeLLMError
from tests.support.mutants import Parts, mutate
from tests.support.references import CHECKPOINTS_ONLY, OFFICIAL, converted_gguf, official_gguf

TEXT = "Hello wörld, <|im_end|></s> 日本 don't\n\n  1234567"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXT}]
LIMIT_S = 60
MAX_MEMORY = 1 << 29
MAX_MESSAGE = 2000


def sources(folder: Path) -> list[Path]:
    """Valid models to start from, without missing ones; some are made in `folder`."""
    found: list[Path] = []
    for name in (*OFFICIAL, *CHECKPOINTS_ONLY):
        try:
            found.append(
                official_gguf(name, folder) if name in OFFICIAL else converted_gguf(name, folder, "F16")
            )
        except pytest.skip.Exception:
            continue
    return found


def make(sources: list[Path], seed: int) -> bytes:
    """The mutant of a seed."""
    rng = random.Random(seed)
    return mutate(Parts.of(rng.choice(sources)), rng).build()


def use(path: Path) -> str:
    """Stage that a file reached: refused, loaded, or answered. Any error that is not the package's own is
    raised.
    """
    stage = "refused"
    try:
        describe(path)
        with Model.load(path, LoadOptions(threads=2, max_memory=MAX_MEMORY)) as model:
            stage = "loaded"
            ids = model.tokenize(TEXT, add_special=True, parse_special=True)
            model.detokenize(ids)
            if model.program.logits is None:
                model.embed([TEXT])
            else:
                for temperature in (0.0, 1.5):
                    options = GenerateOptions(max_tokens=8, temperature=temperature, seed=1)
                    "".join(model.generate(ids[: model.n_ctx - 9], options))
                stage = "answered"
                "".join(model.chat(MESSAGES, GenerateOptions(max_tokens=8, temperature=0.0)))
    except EdgeLLMError as error:
        told = str(error)
        assert told.isprintable(), told
        assert len(told) < MAX_MESSAGE, told
    return stage


def work(folder: Path, first: int, count: int) -> int:
    """Use the mutants of these seeds; returns 1, with the traceback, at the first foreign error."""
    originals = sources(folder)
    path = folder / f"mutant-{os.getpid()}.gguf"
    for seed in range(first, first + count):
        print(seed, end=" ", flush=True)
        path.unlink(missing_ok=True)
        path.write_bytes(make(originals, seed))
        faulthandler.dump_traceback_later(LIMIT_S, exit=True)
        try:
            print(use(path), flush=True)
        except Exception:
            traceback.print_exc()
            return 1
        finally:
            faulthandler.cancel_dump_traceback_later()
    path.unlink(missing_ok=True)
    return 0


def fuzz(folder: Path, first: int, count: int) -> tuple[Counter[str], dict[int, str]]:
    """Number of mutants by the stage that they reached, and the messages of failures by seed."""
    outcomes: Counter[str] = Counter()
    failures: dict[int, str] = {}
    end = first + count
    while first < end:
        command = [sys.executable, "-m", "tests.fuzz_models", "--work", str(folder)]
        command += ["--first", str(first), "--count", str(end - first)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [line.split() for line in done.stdout.splitlines()]
        outcomes.update(line[1] for line in lines if len(line) == 2)
        if done.returncode == 0:
            break
        if not lines:
            raise RuntimeError(done.stderr)
        first = int(lines[-1][0])
        failures[first] = f"exit status {done.returncode}\n{done.stderr[-4000:]}"
        first += 1
    return outcomes, failures


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--first", type=int, default=0, metavar="SEED")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--step", type=int, default=2000, help="mutants of one process")
    parser.add_argument("--keep", type=Path, default=Path("mutants"), help="where mutants that fail are kept")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        return work(arguments.work, arguments.first, arguments.count)
    n_failures, total = 0, Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals = sources(folder)
        end = arguments.first + arguments.count
        for first in range(arguments.first, end, arguments.step):
            outcomes, failures = fuzz(folder, first, min(arguments.step, end - first))
            total += outcomes
            n_failures += len(failures)
            for seed, told in failures.items():
                arguments.keep.mkdir(parents=True, exist_ok=True)
                (arguments.keep / f"{seed}.gguf").write_bytes(make(originals, seed))
                print(f"seed {seed}: {told}", flush=True)
            print(f"{sum(total.values())} mutants: {dict(total)}, {n_failures} failures", flush=True)
    return 1 if n_failures else 0


if __name__ == "__main__":
    sys.exit(main())
