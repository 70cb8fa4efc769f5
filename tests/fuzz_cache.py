"""Damage the saved pieces of prompts: a restarted model reads them or drops them, and answers as before.

    python -m tests.fuzz_cache --seconds 300

A piece whose checksum fits is trusted as the owner's: then only crashes and foreign errors are faults.
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from edgellm.engine.options import GenerateOptions
from edgellm.engine.prefix_store import PrefixStore, _checksum
from tests.support.damage import damage_bytes
from tests.support.fuzzing import Target, main
from tests.support.references import converted_gguf, official_gguf

BIG = 1 << 30
PROMPT = [3 + i % 200 for i in range(150)]
GREEDY = GenerateOptions(max_tokens=6, temperature=0.0)
CHECK_BYTES = 4


class Original(NamedTuple):
    """A model, the folder of what it saved, its answer."""

    model: Path
    cache: Path
    answer: list[int]


def _answer(model_path: Path, cache: Path) -> list[int]:
    store = PrefixStore(cache, BIG)
    try:
        with Model.load(model_path, LoadOptions(threads=1), store=store) as model:
            ids: list[int] = []
            for prompt in (PROMPT, PROMPT[:100]):
                generation = model.generate(prompt, GREEDY)
                "".join(generation)
                ids += generation.ids
            while model.scheduler.save_some():
                pass
            return ids
    finally:
        store.close()


def prepare(folder: Path) -> list[Original]:
    """Models with attention caches and with recurrent states, and what they saved of two prompts."""
    found = []
    for name in ("llama", "mamba2", "gemma3"):
        try:
            path = official_gguf(name, folder)
        except BaseException as error:
            if type(error).__name__ != "Skipped":
                raise
            path = converted_gguf(name, folder)
        cache = folder / f"{name}-cache"
        found.append(Original(path, cache, _answer(path, cache)))
    return found


def _damage(pieces: list[Path], rng: random.Random) -> bool:
    """Damage a saved piece; True if its checksum fits the damaged contents."""
    path, other = rng.choice(pieces), rng.choice(pieces)
    raw = path.read_bytes()
    match rng.randrange(8):
        case 0:
            path.write_bytes(other.read_bytes())
        case 1:
            path.rename(path.with_name(other.name[:33] + path.name[33:]))
        case 2:
            path.unlink()
            path.mkdir()
        case 3:
            path.unlink()
            path.symlink_to(rng.choice((other, Path("/dev/zero"), Path("/nowhere"))))
        case 4 | 5:
            path.write_bytes(damage_bytes(raw, rng))
        case _:
            body = damage_bytes(raw[:-CHECK_BYTES], rng)
            path.write_bytes(body + _checksum(body, b""))
            return True
    return False


def use(originals: list[Original], folder: Path, rng: random.Random) -> str:
    """Start the model with damaged pieces and ask again."""
    original = rng.choice(originals)
    cache = folder / "cache"
    shutil.copytree(original.cache, cache)
    forged = False
    for _ in range(rng.choice((1, 1, 2, 3))):
        pieces = sorted(path for path in cache.rglob("*.kv") if path.is_file() and not path.is_symlink())
        if pieces:
            forged |= _damage(pieces, rng)
    answer = _answer(original.model, cache)
    if not forged:
        assert answer == original.answer, f"{answer}, expected {original.answer}"
    return "forged" if forged else "same"


TARGET = Target("tests.fuzz_cache", prepare, use)

if __name__ == "__main__":
    sys.exit(main(TARGET, __doc__))
