"""Greedy tokens of variants in llama.cpp and here: `python -m tests.llama_cpp_families [VARIANT...]`.

Needs llama-cpp-python. Prints a line for each variant. Each runs in a process of its own, because llama.cpp
ends the process at what it does not expect.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.pipeline import write
from edgellm.convert.recipes import recipe
from edgellm.convert.source import plan_conversion
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from edgellm.engine.options import GenerateOptions
from tests.support.variants import variants, write_variant

GREEDY = GenerateOptions(temperature=0.0, max_tokens=12, ignore_eos=True, repeat_penalty=1.0)


def answers(name: str) -> dict[str, list[int]]:
    """Greedy tokens by backend."""
    prompt = np.random.default_rng(3).integers(3, 260, 24).tolist()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(write_variant(variants()[name], Path(folder, "checkpoint")))
        path = Path(folder, "model.gguf")
        write(plan_conversion(checkpoint, recipe("F32"), threads=1), path, threads=1)
        for backend in ("native", "llama_cpp"):
            options = LoadOptions(threads=1, context=64, backend=backend)
            with Model.load(path, options) as model:
                generation = model.generate(prompt, GREEDY)
                list(generation)
                found[backend] = generation.ids
    return found


def main(names: list[str]) -> int:
    """Print the table; 1 if an answer differs."""
    failed = 0
    for name in names or list(variants()):
        command = [sys.executable, "-m", "tests.llama_cpp_families", "--one", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        last = (done.stdout.strip().splitlines() or [""])[-1]
        try:
            found = json.loads(last)
        except ValueError:
            why = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
            print(f"{name:<32} refused   {why[:120]}", flush=True)
            failed += 1
            continue
        pairs = zip(found["native"], found["llama_cpp"], strict=True)
        n_same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(found["native"]))
        same = found["native"] == found["llama_cpp"]
        print(f"{name:<32} {'same' if same else f'differs after {n_same} tokens'}", flush=True)
        failed += not same
    return min(failed, 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print("\n" + json.dumps(answers(sys.argv[2])))
    else:
        sys.exit(main(sys.argv[1:]))
