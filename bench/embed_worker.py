"""Worker of `embed.py`: embeds texts with one library, in the Python that it is installed in.

Speaks JSON lines: a request on stdin, an answer on stdout. The timed part is the library's own call, from
texts to vectors; CPU seconds are those of all threads of the process.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

Embed = Callable[[Sequence[str]], Any]


def edgellm_embed(model: str, threads: int) -> tuple[str, Embed]:
    """The version and the call of edgellm."""
    import edgellm

    loaded = edgellm.load(model, threads=threads)
    return edgellm.__version__, loaded.embed


def peer_embed(model: str, threads: int) -> tuple[str, Embed]:
    """The version and the call of sentence-transformers."""
    import sentence_transformers
    import torch

    torch.set_num_threads(threads)
    loaded = sentence_transformers.SentenceTransformer(model, device="cpu")

    def embed(texts: Sequence[str]) -> Any:
        return loaded.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)

    return f"{sentence_transformers.__version__}, torch {torch.__version__}", embed


ENGINES = {"edgellm": edgellm_embed, "sentence-transformers": peer_embed}


def main() -> None:
    """Answer requests until there are no more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("model")
    parser.add_argument("-t", "--threads", type=int, required=True)
    arguments = parser.parse_args()
    answers = sys.stdout
    sys.stdout = sys.stderr
    version, embed = ENGINES[arguments.engine](arguments.model, arguments.threads)
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "info":
            answer: dict[str, Any] = {"version": version}
        else:
            wall, cpu = time.perf_counter(), time.process_time()
            vectors = embed(request["texts"])
            answer = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
            if request["op"] == "vectors":
                answer["vectors"] = vectors.tolist()
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
