"""Worker that runs one peer engine, in the Python it is installed in: one measurement per request.

`compare.py` starts it and speaks JSON lines: a request on stdin, an answer on stdout. It imports only the
standard library and NumPy beside the peer. Only `llama_decode` and the search for the largest logit are
timed.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

ENGINES = {"llama.cpp": "llama_cpp.llama_cpp", "ik_llama.cpp": "ik_llama_cpp._ctypes_api"}


def memory() -> dict[str, int]:
    """Return the process's peak and present resident memory in bytes (`/proc/self/status`)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "peak_bytes": int(fields["VmHWM"].split()[0]) * 1024,
        "resident_bytes": int(fields["VmRSS"].split()[0]) * 1024,
    }


class Peer:
    """One peer's model and context, over its C interface."""

    def __init__(self, engine: str, repack: bool) -> None:
        self.api: Any = importlib.import_module(ENGINES[engine])
        self.engine = engine
        self.repack = repack
        self.model: Any = None
        self.ctx: Any = None
        self.n_vocab = 0
        if engine == "ik_llama.cpp":
            # The wheel binds only part of its library.
            lib = self.api._lib
            lib.llama_print_system_info.restype = ctypes.c_char_p
            lib.llama_kv_cache_seq_rm.argtypes = [ctypes.c_void_p] + [ctypes.c_int32] * 3
            lib.llama_kv_cache_seq_rm.restype = ctypes.c_bool
        self.baseline = memory()

    def info(self) -> dict[str, Any]:
        """Return the library's name and the CPU features that it was built for."""
        package = importlib.import_module(ENGINES[self.engine].split(".")[0])
        lib = self.api if self.engine == "llama.cpp" else self.api._lib
        features = lib.llama_print_system_info().decode()
        return {
            "engine": self.engine,
            "version": str(package.__version__),
            "features": " ".join(
                part.strip().removesuffix(" = 1") for part in features.split("|") if part.endswith("= 1 ")
            ),
            "repack": self.repack,
            "baseline_bytes": self.baseline["peak_bytes"],
        }

    def load(self, model: str) -> dict[str, Any]:
        """Load a model with the engine's own defaults, on the CPU."""
        self.api.llama_backend_init()
        params = self.api.llama_model_default_params()
        params.n_gpu_layers = 0
        if self.engine == "ik_llama.cpp":
            params.repack_tensors = self.repack
        self.model = self.api.llama_model_load_from_file(os.fsencode(model), params)
        if not self.model:
            raise RuntimeError(f"{self.engine} cannot load {model}")
        self.n_vocab = int(self.api.llama_vocab_n_tokens(self.api.llama_model_get_vocab(self.model)))
        return {"n_vocab": self.n_vocab}

    def open(self, context: int, threads: int, sequences: int) -> dict[str, Any]:
        """Make a context of `context` tokens for each sequence; the old context is freed first."""
        if self.ctx:
            self.api.llama_free(self.ctx)
        params = self.api.llama_context_default_params()
        params.n_ctx = context * sequences
        params.n_batch = max(512, sequences)
        params.n_ubatch = 512
        params.n_seq_max = sequences
        params.n_threads = threads
        params.n_threads_batch = threads
        if self.engine == "ik_llama.cpp":
            # Its flash attention stops with a failed assertion on a cache of several sequences.
            params.flash_attn = sequences == 1
        self.ctx = self.api.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise RuntimeError(f"{self.engine} cannot make a context of {context} tokens x {sequences}")
        self.batch = self.api.llama_batch_init(max(512, sequences), 0, 1)
        return {}

    def clear(self) -> None:
        if self.engine == "llama.cpp":
            self.api.llama_memory_clear(self.api.llama_get_memory(self.ctx), False)
        else:
            self.api.llama_kv_cache_clear(self.ctx)

    def truncate(self, n_tokens: int) -> None:
        if self.engine == "llama.cpp":
            done = self.api.llama_memory_seq_rm(self.api.llama_get_memory(self.ctx), 0, n_tokens, -1)
        else:
            done = self.api._lib.llama_kv_cache_seq_rm(self.ctx, 0, n_tokens, -1)
        if not done:
            raise RuntimeError(f"{self.engine} cannot cut its cache to {n_tokens} tokens")

    def fill(self, rows: Sequence[tuple[int, int, int, bool]]) -> None:
        """Write (token, position, sequence, wanted) rows into the batch."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted

    def decode(self) -> None:
        status = self.api.llama_decode(self.ctx, self.batch)
        if status:
            raise RuntimeError(f"{self.engine}: llama_decode gave {status}")

    def logits(self, row: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Return the logits of batch row `row`: (n_vocab,) float32, valid until the next decode."""
        pointer = self.api.llama_get_logits_ith(self.ctx, row)
        return np.ctypeslib.as_array(pointer, (self.n_vocab,))

    def feed(self, ids: Sequence[int], start: int = 0, sequence: int = 0) -> float:
        """Run `ids` at position `start`, 512 at a time, wanting the last one's logits; return seconds."""
        seconds = 0.0
        for offset in range(0, len(ids), 512):
            part = ids[offset : offset + 512]
            last = len(ids) - 1
            self.fill([(t, start + offset + i, sequence, offset + i == last) for i, t in enumerate(part)])
            begin = time.perf_counter()
            self.decode()
            seconds += time.perf_counter() - begin
        return seconds

    def prefill(self, ids: Sequence[int]) -> dict[str, Any]:
        """Time a prompt from an empty cache."""
        self.clear()
        return {"seconds": self.feed(ids)}

    def generate(self, ids: Sequence[int], n: int, keep: bool) -> dict[str, Any]:
        """Time `n` greedy tokens after the prompt `ids`; keep: `ids` is in the cache from the last call."""
        if keep:
            self.truncate(len(ids) - 1)
            self.feed(ids[-1:], len(ids) - 1)
        else:
            self.clear()
            self.feed(ids)
        token = int(self.logits(self.batch.n_tokens - 1).argmax())
        out = [token]
        batch = self.batch
        self.fill([(token, len(ids), 0, True)])
        begin = time.perf_counter()
        for i in range(n):
            batch.token[0] = token
            batch.pos[0] = len(ids) + i
            self.decode()
            token = int(self.logits(0).argmax())
            out.append(token)
        seconds = time.perf_counter() - begin
        return {"seconds": seconds, "ids": out[:n]}

    def generate_many(self, prompts: Sequence[Sequence[int]], n: int) -> dict[str, Any]:
        """Time `n` greedy tokens for every prompt at once, each a sequence of its own."""
        self.clear()
        tokens = []
        for sequence, ids in enumerate(prompts):
            self.feed(ids, 0, sequence)
            tokens.append(int(self.logits(self.batch.n_tokens - 1).argmax()))
        batch = self.batch
        self.fill([(t, len(prompts[s]), s, True) for s, t in enumerate(tokens)])
        begin = time.perf_counter()
        for i in range(n):
            for s in range(len(prompts)):
                batch.token[s] = tokens[s]
                batch.pos[s] = len(prompts[s]) + i
            self.decode()
            tokens = [int(self.logits(s).argmax()) for s in range(len(prompts))]
        return {"seconds": time.perf_counter() - begin}

    def perplexity(self, ids: Sequence[int], window: int, bos: int | None) -> dict[str, Any]:
        """Score every token but the first of each window of `window` tokens, each from an empty cache."""
        total = 0.0
        count = 0
        for offset in range(0, len(ids) - window + 1, window):
            part = list(ids[offset : offset + window])
            if bos is not None:
                part[0] = bos
            self.clear()
            self.fill([(t, i, 0, True) for i, t in enumerate(part)])
            self.decode()
            for i in range(window - 1):
                row = self.logits(i).astype(np.float64)
                top = row.max()
                total -= float(row[part[i + 1]] - top - np.log(np.exp(row - top).sum()))
                count += 1
        return {"perplexity": float(np.exp(total / count)), "n_tokens": count}

    def save_logits(self, ids: Sequence[int], out: str) -> dict[str, Any]:
        """Write the logits (n, n_vocab) of a text of at most 512 tokens, from an empty cache."""
        self.clear()
        self.fill([(t, i, 0, True) for i, t in enumerate(ids)])
        self.decode()
        np.save(out, np.stack([self.logits(i) for i in range(len(ids))]))
        return {}

    def quantize(self, source: str, out: str, file_type: int, threads: int, imatrix: str) -> dict[str, Any]:
        """Write a file in other formats; imatrix: .npz of importances by names of tensors, or empty."""
        params = self.api.llama_model_quantize_default_params()
        params.ftype = file_type
        params.nthread = threads
        if imatrix:
            with np.load(imatrix) as arrays:
                values = {name: np.ascontiguousarray(arrays[name], np.float32) for name in arrays.files}
            entries = (self.api.llama_model_imatrix_data * (len(values) + 1))()
            for entry, (name, array) in zip(entries, values.items(), strict=False):
                entry.name = name.encode()
                entry.data = array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
                entry.size = array.size
            params.imatrix = entries
        if self.api.llama_model_quantize(os.fsencode(source), os.fsencode(out), ctypes.byref(params)):
            raise RuntimeError(f"{self.engine} cannot quantize {source}")
        return {}

    def tokenize(self, text: str, add_special: bool) -> dict[str, Any]:
        """Return the engine's own token ids of a text."""
        data = text.encode()
        # llama.cpp's tokenizer takes the vocabulary, its older sibling's the model.
        source = self.model
        if self.engine == "llama.cpp":
            source = self.api.llama_model_get_vocab(self.model)
        buffer = (ctypes.c_int32 * (len(data) + 8))()
        n = self.api.llama_tokenize(source, data, len(data), buffer, len(buffer), add_special, False)
        return {"ids": list(buffer[:n])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", choices=sorted(ENGINES))
    parser.add_argument("--repack", action="store_true", help="let ik_llama.cpp repack tensors at load")
    options = parser.parse_args()
    # Engines write logs to stderr, and some to stdout: keep the channel of the answers apart.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    peer = Peer(options.engine, options.repack)
    for line in sys.stdin:
        request = json.loads(line)
        op = request.pop("op")
        if op == "memory":
            answer: dict[str, Any] = memory()
        else:
            answer = getattr(peer, op)(**request)
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
