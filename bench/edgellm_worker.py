"""Worker that runs edgellm as `peer_worker.py` runs the peers: the same requests and timed parts."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgellm import __version__
from edgellm.backends.base import Backend, Floats, Ints
from edgellm.benchmark.version import build_commit
from edgellm.device.isa import read_isa
from edgellm.device.memory import peak_memory
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.loading import load_backend
from edgellm.engine.planning import plan
from edgellm.gguf.reader import GGUFFile
from edgellm.tokenizer import Tokenizer


class Worker:
    """One model on edgellm's native engine; a context is opened by loading it anew."""

    def __init__(self, isa: str, kv_type: str) -> None:
        self.isa = isa
        self.kv_type = kv_type
        self.baseline = peak_memory() or 0
        self.file: GGUFFile
        self.tokenizer: Tokenizer
        self.backend: Backend | None = None
        self.sequence = -1

    def info(self) -> dict[str, Any]:
        found = read_isa()
        return {
            "engine": "edgellm",
            "version": f"{__version__} ({build_commit()})",
            "features": self.isa or (found.chosen if found else ""),
            "baseline_bytes": self.baseline,
        }

    def load(self, model: str) -> dict[str, Any]:
        self.file = GGUFFile.open(Path(model))
        self.tokenizer = Tokenizer.from_metadata(self.file.metadata)
        return {"n_vocab": self.tokenizer.n_vocab}

    def open(self, context: int, threads: int, sequences: int) -> dict[str, Any]:
        if self.backend is not None:
            self.backend.close()
        options = LoadOptions(
            threads=threads,
            context=context,
            cache_tokens=context * sequences,
            batch=512,
            kv_type=self.kv_type,
            isa=self.isa,
        )
        self.backend, _ = load_backend(plan(self.file, options))
        self.sequence = -1
        return {}

    def prefill(self, ids: Sequence[int]) -> dict[str, Any]:
        seconds, _ = self._fresh(ids)
        return {"seconds": seconds}

    def generate(self, ids: Sequence[int], n: int, keep: bool) -> dict[str, Any]:
        backend = self._loaded()
        if keep:
            backend.truncate_sequence(self.sequence, len(ids) - 1)
            _, token = self._feed(self.sequence, ids[-1:])
        else:
            _, token = self._fresh(ids)
        out = []
        begin = time.perf_counter()
        for _ in range(n):
            out.append(token)
            token = int(np.asarray(backend.step([token], [self.sequence], [True], 1)).argmax())
        return {"seconds": time.perf_counter() - begin, "ids": out}

    def generate_many(self, prompts: Sequence[Sequence[int]], n: int) -> dict[str, Any]:
        backend = self._loaded()
        self._drop()
        sequences = [backend.open_sequence() for _ in prompts]
        tokens = [self._feed(s, ids)[1] for s, ids in zip(sequences, prompts, strict=True)]
        wanted = [True] * len(prompts)
        begin = time.perf_counter()
        for _ in range(n):
            tokens = np.asarray(backend.step(tokens, sequences, wanted, 1)).argmax(axis=1).tolist()
        seconds = time.perf_counter() - begin
        for sequence in sequences:
            backend.close_sequence(sequence)
        return {"seconds": seconds}

    def perplexity(self, ids: Sequence[int], window: int, bos: int | None) -> dict[str, Any]:
        backend = self._loaded()
        total, count = 0.0, 0
        for offset in range(0, len(ids) - window + 1, window):
            part = np.array(ids[offset : offset + window], np.int32)
            if bos is not None:
                part[0] = bos
            self._drop()
            sequence = backend.open_sequence()
            for start in range(0, window, backend.batch):
                piece = part[start : start + backend.batch]
                n = len(piece)
                logits = np.asarray(backend.step(piece.tolist(), [sequence] * n, [True] * n))
                following = part[start + 1 : start + 1 + len(piece)]
                total += _loss(logits[: len(following)], following)
                count += len(following)
            backend.close_sequence(sequence)
        return {"perplexity": float(np.exp(total / count)), "n_tokens": count}

    def save_logits(self, ids: Sequence[int], out: str) -> dict[str, Any]:
        """Write the logits (n, n_vocab) of a text of at most 512 tokens, from an empty cache."""
        self._drop()
        self.sequence, n = self._loaded().open_sequence(), len(ids)
        np.save(out, np.asarray(self._loaded().step(list(ids), [self.sequence] * n, [True] * n)))
        return {}

    def tokenize(self, text: str, add_special: bool) -> dict[str, Any]:
        return {"ids": self.tokenizer.encode(text, add_special=add_special)}

    def memory(self) -> dict[str, Any]:
        return {"peak_bytes": peak_memory() or 0}

    def _loaded(self) -> Backend:
        if self.backend is None:
            raise RuntimeError("no context is open")
        return self.backend

    def _drop(self) -> None:
        if self.sequence >= 0:
            self._loaded().close_sequence(self.sequence)
            self.sequence = -1

    def _fresh(self, ids: Sequence[int]) -> tuple[float, int]:
        self._drop()
        self.sequence = self._loaded().open_sequence()
        return self._feed(self.sequence, ids)

    def _feed(self, sequence: int, ids: Sequence[int]) -> tuple[float, int]:
        """Run `ids`, a step's worth at a time; (seconds, the likeliest next token)."""
        backend = self._loaded()
        outputs = [*[False] * (len(ids) - 1), True]
        owners = [sequence] * len(ids)
        begin = time.perf_counter()
        for start in range(0, len(ids), backend.batch):
            part = slice(start, start + backend.batch)
            logits = backend.step(ids[part], owners[part], outputs[part])
        return time.perf_counter() - begin, int(np.asarray(logits)[-1].argmax())


def _loss(logits: Floats, following: Ints) -> float:
    """The sum of -ln p of each following token."""
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    picked = rows[np.arange(len(following)), following]
    return float((np.log(np.exp(rows).sum(axis=1)) - picked).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--isa", default="")
    parser.add_argument("--kv-type", default="auto")
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(options.isa, options.kv_type)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(worker, request.pop("op"))(**request)
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
