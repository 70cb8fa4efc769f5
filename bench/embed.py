"""Compares embeddings of edgellm with those of sentence-transformers: the same texts and threads, in turn.

    python -m bench.embed -m minilm-q8_0.gguf --checkpoint all-MiniLM-L6-v2 --peer-python VENV/bin/python -t 1

Each library is a process that stays loaded and embeds all texts at a request, so the two take turns. A ratio
is taken within each turn, of texts per second and of texts per CPU second, and the median and the range of
the ratios are reported, with the least and the mean cosine between the two libraries' vectors. -m may be
given several times, for files of several formats.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.compare import PAUSE_S, TEXT, Engine
from edgellm.device.cores import cpu_name

HERE = Path(__file__).resolve().parent
SECONDS = {"wall_s": "texts/s", "cpu_s": "texts per CPU second"}


def texts_of(n_words: tuple[int, int], count: int) -> list[str]:
    """Texts of the English sample, each with a number of words in a range, which goes round."""
    words = re.sub(r"\s+", " ", TEXT.read_text(encoding="utf-8")).split()
    found, place = [], 0
    for i in range(count):
        n = n_words[0] + i * 7 % (n_words[1] - n_words[0] + 1)
        found.append(" ".join(words[(place + j) % len(words)] for j in range(n)))
        place += n
    return found


def spread(values: list[float], digits: int) -> str:
    """Median and range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("-m", "--model", action="append", required=True, help="GGUF file")
    parser.add_argument("--checkpoint", required=True, help="folder of the original")
    parser.add_argument("--peer-python", required=True, help="Python with sentence-transformers")
    parser.add_argument("-t", "--threads", type=int, default=1)
    parser.add_argument("-r", "--turns", type=int, default=7)
    parser.add_argument("-n", "--texts", type=int, default=512)
    parser.add_argument("--words", type=int, nargs=2, default=(4, 16), metavar=("LEAST", "MOST"))
    arguments = parser.parse_args()
    worker, threads = str(HERE / "embed_worker.py"), str(arguments.threads)
    engines = [
        Engine(Path(model).name, [sys.executable, worker, "edgellm", model, "-t", threads])
        for model in arguments.model
    ]
    checkpoint = arguments.checkpoint
    command = [arguments.peer_python, worker, "sentence-transformers", checkpoint, "-t", threads]
    peer = Engine("sentence-transformers", command)
    texts = texts_of((arguments.words[0], arguments.words[1]), arguments.texts)
    print(f"{cpu_name()}, threads {threads}, {len(texts)} texts of {arguments.words} words")
    for engine in (peer, *engines):
        print(f"{engine.name}: {engine.ask('info')['version']}")
    vectors = {e.name: np.array(e.ask("vectors", texts=texts)["vectors"]) for e in (peer, *engines)}
    turns: dict[str, list[dict[str, Any]]] = {engine.name: [] for engine in (peer, *engines)}
    for _ in range(arguments.turns):
        for engine in (peer, *engines):
            time.sleep(PAUSE_S)
            turns[engine.name].append(engine.ask("embed", texts=texts))
    for engine in (peer, *engines):
        for key, unit in SECONDS.items():
            rates = [len(texts) / turn[key] for turn in turns[engine.name]]
            line = f"{engine.name}: {spread(rates, 0)} {unit}"
            if engine is not peer:
                pairs = zip(turns[peer.name], turns[engine.name], strict=True)
                line += f", {spread([theirs[key] / ours[key] for theirs, ours in pairs], 2)} times the peer's"
            print(line)
        if engine is not peer:
            cosines = (vectors[engine.name] * vectors[peer.name]).sum(axis=1)
            print(f"{engine.name}: cosine at least {cosines.min():.5f}, mean {cosines.mean():.5f}")
        engine.close()


if __name__ == "__main__":
    main()
