"""Break model files: each broken model answers, or is refused with an error of ours.

    python -m tests.fuzz_models --count 100000 --keep mutants

It starts from the reference models under tests/data, and from those of the shared folder if that exists. To
find more than crashes, build the engine with -DEDGELLM_SANITIZE=address, and set LD_PRELOAD to libasan.so and
libstdc++.so and ASAN_OPTIONS=detect_leaks=0; that holds for the other fuzzers, too.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from edgellm.engine.describe import describe
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from edgellm.engine.options import GenerateOptions
from edgellm.errors import EdgeLLMError
from tests.support.fuzzing import Target, check_message, main
from tests.support.mutants import Parts, mutate
from tests.support.references import CHECKPOINTS_ONLY, OFFICIAL, converted_gguf, official_gguf

TEXT = "Hello wörld, <|im_end|></s> 日本 don't\n\n  1234567"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": TEXT}]
MAX_MEMORY = 1 << 29


def prepare(folder: Path) -> list[Path]:
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


def use(originals: list[Path], folder: Path, rng: random.Random) -> str:
    """Load a broken model and let it answer; "loaded": it was refused only then."""
    path = folder / "mutant.gguf"
    path.write_bytes(mutate(Parts.of(rng.choice(originals)), rng).build())
    describe(path)
    with Model.load(path, LoadOptions(threads=2, max_memory=MAX_MEMORY)) as model:
        try:
            _answer(model)
        except EdgeLLMError as error:
            check_message(error)
            return "loaded"
    return "answered"


def _answer(model: Model) -> None:
    ids = model.tokenize(TEXT, add_special=True, parse_special=True)
    model.detokenize(ids)
    if model.program.logits is None:
        model.embed([TEXT])
        return
    for temperature in (0.0, 1.5):
        options = GenerateOptions(max_tokens=8, temperature=temperature, seed=1)
        "".join(model.generate(ids[: model.n_ctx - 9], options))
    "".join(model.chat(MESSAGES, GenerateOptions(max_tokens=8, temperature=0.0)))


TARGET = Target("tests.fuzz_models", prepare, use)

if __name__ == "__main__":
    sys.exit(main(TARGET, __doc__))
