"""Answers and logits of one processor, to compare them with another's.

    python -m tests.same_answers write here.npz
    python -m tests.same_answers compare here.npz there.npz

`write` computes the greedy tokens and logits of the tiny references, and those of SmolLM2 where
EDGELLM_TEST_MODELS has it, by `edgellm run` and from Python. `compare` exits 1 unless greedy tokens are equal
and logits diverge by less than 0.01 nats in the mean.
"""

from __future__ import annotations

import contextlib
import io
import lzma
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import edgellm
from edgellm.cli import main as cli

REFERENCES = Path(__file__).resolve().parent / "data/references"
# References whose files are in the repository, of different architectures.
TINY = ("gemma2", "gemma3", "lfm2", "llama", "llama3", "mamba2", "mixtral", "qwen2", "qwen3", "stablelm")
TEXT = "The capital of France is"
N_ANSWER = 12
MOST_DIVERGENCE = 0.01

Array = NDArray[np.float32]


def models(folder: Path) -> Iterator[tuple[str, Path]]:
    """Names and files of the models."""
    for name in TINY:
        path = folder / f"{name}.gguf"
        path.write_bytes(lzma.decompress((REFERENCES / name / "official-f32.gguf.xz").read_bytes()))
        yield name, path
    real = os.environ.get("EDGELLM_TEST_MODELS")
    if real:
        yield "smollm2", Path(real) / "smollm2.gguf"


def answer(path: Path) -> str:
    """The text that `edgellm run` writes."""
    out = io.StringIO()
    arguments = ["run", "-m", str(path), "--raw", "-n", str(N_ANSWER), "--temp", "0", "-t", "1", TEXT]
    with contextlib.redirect_stdout(out):
        status = cli(arguments)
    assert status == 0, f"edgellm {' '.join(arguments)}: exit {status}"
    return out.getvalue()


def compute() -> dict[str, NDArray[np.generic]]:
    """For each model: the answer, and the logits of a text's positions."""
    found: dict[str, NDArray[np.generic]] = {}
    with tempfile.TemporaryDirectory() as name:
        for model_name, path in models(Path(name)):
            found[f"{model_name} answer"] = np.array(answer(path))
            with edgellm.load(path, threads=1) as model:
                ids = [int(i) for i in np.random.default_rng(1).integers(5, 250, 24)]
                found[f"{model_name} logits"] = model.logits(ids)
    return found


def divergence(expected: Array, found: Array) -> float:
    """Mean Kullback-Leibler divergence of rows of logits, in nats."""

    def log_softmax(rows: Array) -> NDArray[np.float64]:
        wide = rows.astype(np.float64)
        wide -= wide.max(axis=1, keepdims=True)
        return np.asarray(wide - np.log(np.exp(wide).sum(axis=1, keepdims=True)))

    p, q = log_softmax(expected), log_softmax(found)
    return float((np.exp(p) * (p - q)).sum(axis=1).mean())


def compare(here: Path, there: Path) -> bool:
    """Print each model's divergence; False if one is too large, or an answer is another one."""
    good = True
    with np.load(here) as expected, np.load(there) as found:
        for key in expected.files:
            if key.endswith("logits"):
                nats = divergence(expected[key], found[key])
                print(f"{key}: {nats:.5f} nats")
                good &= nats < MOST_DIVERGENCE
            elif str(expected[key]) != str(found[key]):
                print(f"{key}: {str(found[key])!r}, expected {str(expected[key])!r}")
                good = False
    return good


def main(arguments: Sequence[str]) -> int:
    match list(arguments):
        case ["write", path]:
            np.savez(path, **compute())  # type: ignore[arg-type]
            return 0
        case ["compare", here, there]:
            return 0 if compare(Path(here), Path(there)) else 1
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
