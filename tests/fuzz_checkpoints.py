"""Damage checkpoints and convert them: each is converted and answers, or is refused with an error of ours.

python -m tests.fuzz_checkpoints --seconds 300
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.pipeline import write
from edgellm.convert.recipes import recipe
from edgellm.convert.source import plan_conversion
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from tests.support.checkpoints import CONFIG, save, tokenizer_json, weights, write_checkpoint, write_shards
from tests.support.damage import damage_folder
from tests.support.fuzzing import Target, main
from tests.support.references import COMMITTED
from tests.support.tokenizer_files import (
    sentencepiece_json,
    sentencepiece_model,
    trained_json,
    unigram_json,
    write_tokenizer,
)

MAX_MEMORY = 1 << 29
METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}


def _wide(folder: Path, source: dict[str, Any] | None) -> Path:
    """A checkpoint whose embedding has rows for the tokens of a trained tokenizer."""
    write_tokenizer(folder, source)
    named = weights()
    named["model.embed_tokens.weight"] = np.tile(named["model.embed_tokens.weight"], (3, 1))[:800]
    save(folder / "model.safetensors", {name: ("F32", array) for name, array in named.items()})
    (folder / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": 800}))
    return folder


def _packed(folder: Path, kind: str) -> Path:
    """A checkpoint with packed linear layers; their values are noise."""
    write_checkpoint(folder)
    rng = np.random.default_rng(1)
    named: dict[str, Any] = {}
    for name, array in weights().items():
        rows, cols = array.shape if array.ndim == 2 else (0, 0)
        base = name.removesuffix(".weight")
        if not name.endswith("proj.weight"):
            named[name] = ("F32", array)
        elif kind == "fp8":
            named[name] = ("F8_E4M3", rng.integers(0, 120, (rows, cols)))
            named[f"{name}_scale_inv"] = ("F32", np.full((-(-rows // 32), -(-cols // 32)), 0.01))
        else:
            named[f"{base}.qweight"] = ("I32", rng.integers(-(2**31), 2**31, (cols // 8, rows)))
            named[f"{base}.qzeros"] = ("I32", rng.integers(-(2**31), 2**31, (2, rows // 8)))
            named[f"{base}.scales"] = ("F32", np.full((2, rows), 0.01))
            named[f"{base}.g_idx"] = ("I32", np.arange(cols) // (cols // 2))
    save(folder / "model.safetensors", named)
    settings: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    if kind == "fp8":
        settings = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    (folder / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": settings}))
    return folder


def prepare(folder: Path) -> list[Path]:
    """Checkpoints to damage: small ones of every kind of file, and the references that travel along."""
    kept = folder / "originals"
    if not kept.exists():
        making = folder / "making"
        write_checkpoint(making / "plain")
        write_shards(making / "shards")
        _packed(making / "gptq", "gptq")
        _packed(making / "fp8", "fp8")
        _wide(making / "metaspace", sentencepiece_json(pre_tokenizer=METASPACE))
        _wide(making / "unigram", unigram_json(pre_tokenizer=METASPACE | {"prepend_scheme": "always"}))
        _wide(making / "pipeline", trained_json("BPE", {"type": "Lowercase"}, {"type": "Whitespace"}))
        (_wide(making / "model", None) / "tokenizer.model").write_bytes(sentencepiece_model())
        both = _wide(making / "both", sentencepiece_json(pre_tokenizer=METASPACE))
        (both / "tokenizer.model").write_bytes(sentencepiece_model())
        files = write_tokenizer(making / "files", None, {"tokenizer_class": "GPT2Tokenizer"})
        model = tokenizer_json()["model"]
        (files / "vocab.json").write_text(json.dumps(model["vocab"]))
        (files / "merges.txt").write_text("\n".join(" ".join(merge) for merge in model["merges"]))
        for path in sorted(COMMITTED.iterdir()):
            if (path / "config.json").is_file():
                copy = making / path.name
                shutil.copytree(path, copy, ignore=shutil.ignore_patterns("*.xz", "*.npz", "lora"))
                (copy / "tokenizer.json").write_text(json.dumps(tokenizer_json()))
        making.rename(kept)
    return sorted(kept.iterdir())


def use(originals: list[Path], folder: Path, rng: random.Random) -> str:
    """Convert a damaged checkpoint and let the model answer."""
    damaged = damage_folder(rng.choice(originals), folder, rng)
    plan = plan_conversion(Checkpoint(damaged), recipe(rng.choice(("F32", "F16", "Q8_0"))), threads=2)
    if plan.n_bytes > MAX_MEMORY:
        return "large"
    write(plan, folder / "x.gguf", threads=2)
    with Model.load(folder / "x.gguf", LoadOptions(threads=2, max_memory=MAX_MEMORY)) as model:
        ids = model.tokenize("Hello wörld, <s></s> 日本 don't\n\n  123", add_special=True, parse_special=True)
        model.detokenize(ids)
        if model.program.logits is None:
            model.embed(["Hello"])
        else:
            model.logits(ids[:8] or [0])
    return "answered"


TARGET = Target("tests.fuzz_checkpoints", prepare, use)

if __name__ == "__main__":
    sys.exit(main(TARGET, __doc__))
