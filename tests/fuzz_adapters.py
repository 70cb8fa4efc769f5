"""Damage PEFT folders and adapters in GGUF: each works or is refused with an error of ours.

python -m tests.fuzz_adapters --seconds 300
"""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import edgellm
from edgellm.convert.adapter import base_of_file, plan_adapter
from edgellm.convert.pipeline import write
from edgellm.gguf.reader import GGUFFile
from edgellm.gguf.types import GGMLType
from tests.support.damage import damage_folder
from tests.support.fuzzing import Target, main
from tests.support.mutants import Parts, mutate
from tests.support.references import COMMITTED, PACKED, official_gguf

MAX_MEMORY = 1 << 29
Originals = list[tuple[Path, Path, Path]]


def prepare(folder: Path) -> Originals:
    """Models with a PEFT adapter, and that adapter in GGUF."""
    found: Originals = []
    for case in sorted(COMMITTED.iterdir()):
        lora = case / "lora"
        if not lora.is_dir() or not (case / PACKED).exists():
            continue
        model = official_gguf(case.name, folder)
        peft, written = folder / f"{case.name}-peft", folder / f"{case.name}-lora.gguf"
        if not written.exists():
            shutil.copytree(lora, peft, ignore=shutil.ignore_patterns("*.npz"), dirs_exist_ok=True)
            with GGUFFile.open(model) as file:
                write(plan_adapter(peft, base_of_file(file), GGMLType.F32), written, threads=1)
        found.append((model, peft, written))
    return found


def use(originals: Originals, folder: Path, rng: random.Random) -> str:
    """Load a model with a damaged adapter and let it answer with it, without it, and with a half of it."""
    model_path, peft, written = rng.choice(originals)
    if rng.random() < 0.6:
        adapter = damage_folder(peft, folder, rng)
    else:
        adapter = folder / "lora.gguf"
        adapter.write_bytes(mutate(Parts.of(written), rng).build())
    with edgellm.load(model_path, lora=[adapter], threads=2, max_memory=MAX_MEMORY) as model:
        for scale in (1.0, 0.0, 0.5):
            model.logits(list(range(3, 9)), lora={0: scale})
    return "answered"


TARGET = Target("tests.fuzz_adapters", prepare, use)

if __name__ == "__main__":
    sys.exit(main(TARGET, __doc__))
