"""Split models into parts and damage some: each set works or is refused with an error of ours.

python -m tests.fuzz_splits --seconds 300
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import ValueType
from tests.support.damage import damage_bytes
from tests.support.fuzzing import Target, main
from tests.support.mutants import Pair, Parts, mutate
from tests.support.references import official_gguf

MAX_MEMORY = 1 << 29
IDS = list(range(3, 12))
Original = tuple[Parts, NDArray[np.float32]]


def prepare(folder: Path) -> list[Original]:
    """Whole models, and what they answer."""
    found = []
    for name in ("llama", "qwen3"):
        path = official_gguf(name, folder)
        with Model.load(path, LoadOptions(threads=1)) as model:
            found.append((Parts.of(path), np.array(model.logits(IDS))))
    return found


def split(parts: Parts, n: int, rng: random.Random) -> list[Parts]:
    """The tensors in n parts, as llama.cpp's tool splits them; the metadata is in the first."""
    cuts = sorted(rng.randrange(len(parts.tensors) + 1) for _ in range(n - 1))
    made = []
    for i, (start, stop) in enumerate(zip((0, *cuts), (*cuts, len(parts.tensors)), strict=True)):
        pairs = [Pair("split.no", ValueType.UINT16, None, i), Pair("split.count", ValueType.UINT16, None, n)]
        pairs.append(Pair("split.tensors.count", ValueType.INT32, None, len(parts.tensors)))
        made.append(Parts(([*parts.pairs] if i == 0 else []) + pairs, parts.tensors[start:stop]))
    return made


def _damage(paths: list[Path], made: list[Parts], rng: random.Random) -> bool:
    """Damage the files of a set in one way; False: it is left whole."""
    at, other = rng.randrange(len(paths)), rng.randrange(len(paths))
    match rng.randrange(9):
        case 0:
            return False
        case 1:
            paths[at].unlink()
        case 2:
            shutil.copyfile(paths[other], paths[at]) if at != other else None
            return at != other
        case 3:
            held = paths[at].read_bytes()
            paths[at].write_bytes(paths[other].read_bytes())
            paths[other].write_bytes(held)
            return at != other
        case 4:
            paths[at].write_bytes(damage_bytes(paths[at].read_bytes(), rng))
        case 5:
            made[at].tensors = [*made[at].tensors, *made[other].tensors[:1]]
            paths[at].write_bytes(made[at].build())
        case 6:
            paths[at].rename(paths[at].with_name(rng.choice(("x.gguf", "m-00009-of-00002.gguf"))))
        case _:
            paths[at].write_bytes(mutate(made[at], rng).build() if made[at].tensors else b"")
    return True


def use(originals: list[Original], folder: Path, rng: random.Random) -> str:
    """Open a set by one of its parts; a whole one gives the logits of the model it was made of."""
    whole, expected = rng.choice(originals)
    n = rng.choice((1, 2, 2, 3, 5, 12))
    made = split(whole, n, rng)
    paths = [folder / f"m-{i + 1:05d}-of-{n:05d}.gguf" for i in range(n)]
    for path, part in zip(paths, made, strict=True):
        path.write_bytes(part.build())
    damaged = _damage(paths, made, rng)
    opened = rng.choice(sorted(folder.glob("*.gguf")) or paths)
    with GGUFFile.open(opened) as file:
        for name in file.tensors:
            file.view(name)[:1].tobytes()
    with Model.load(opened, LoadOptions(threads=2, max_memory=MAX_MEMORY)) as model:
        logits: Any = model.logits(IDS)
    if not damaged:
        assert np.array_equal(logits, expected), "a whole set gives other logits than the model"
        return "whole"
    return "answered"


TARGET = Target("tests.fuzz_splits", prepare, use)

if __name__ == "__main__":
    sys.exit(main(TARGET, __doc__))
