"""Spot checks of the files that `int4.py` has written: llama.cpp as the judge, its tokens, speed.

    python -m bench.int4_spot FOLDER --peer-python VENV/bin/python --files A.gguf,B.gguf --source S.gguf

Divergences are those of llama.cpp's logits from its own of the source. Greedy tokens after a few prompts are
compared with edgellm's; the places of the first different ones are printed. A token that differs changes all
that follow, so choices after each token of a text are compared, too, with how near those were that differ.
Speed is that of edgellm's answers, the files in turn, many short ones: the ratio of their medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.compare import HERE, Engine
from bench.int4 import windows
from edgellm.convert.receipt import Divergence
from edgellm.gguf.reader import GGUFFile
from edgellm.tokenizer import Tokenizer

_PROMPT, _ANSWER, _CONTEXT = 24, 48, 512


class Engines:
    """Workers with a file loaded in each, by engine and file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._open: dict[tuple[str, str], Engine] = {}

    def of(self, engine: str, file: str) -> Engine:
        """The worker of an engine with a file."""
        key = (engine, file)
        if key not in self._open:
            if engine == "edgellm":
                command = [sys.executable, str(HERE / "edgellm_worker.py")]
            else:
                command = [str(self._options.peer_python), str(HERE / "peer_worker.py"), engine]
            worker = Engine(engine, command)
            worker.ask("load", model=str(self._options.folder / file))
            worker.ask("open", context=_CONTEXT, threads=self._options.threads, sequences=1)
            self._open[key] = worker
        return self._open[key]

    def close(self) -> None:
        """End the workers."""
        for worker in self._open.values():
            worker.close()


def judge(engines: Engines, source: str, files: Sequence[str], texts: Sequence[list[int]], out: Path) -> None:
    """Print each file's divergence by llama.cpp's logits."""

    def logits(file: str, ids: list[int]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        engines.of("llama.cpp", file).ask("save_logits", ids=ids, out=str(out))
        found: np.ndarray[tuple[int, int], np.dtype[np.float32]] = np.load(out)
        return found

    found = {file: Divergence() for file in files}
    for ids in texts:
        expected = logits(source, ids)
        for file in files:
            found[file].add(expected, logits(file, ids), ids)
    out.unlink()
    for file, divergence in found.items():
        print(
            f"{file}: divergence by llama.cpp {divergence.kld:.4f} ± {divergence.kld_error:.4f} over "
            f"{divergence.n_tokens} tokens"
        )


def compare_tokens(engines: Engines, files: Sequence[str], texts: Sequence[list[int]]) -> None:
    """Print how many greedy answers of both engines are the same, token by token."""
    for file in files:
        same, firsts = 0, []
        for ids in texts:
            ask = {"ids": ids[:_PROMPT], "n": _ANSWER, "keep": False}
            ours, theirs = (
                engines.of(e, file).ask("generate", **ask)["ids"] for e in ("edgellm", "llama.cpp")
            )
            different = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
            same += not different
            firsts += different[:1]
        print(f"{file}: {same} of {len(texts)} greedy answers of {_ANSWER} tokens are the same; {firsts}")


def compare_choices(engines: Engines, files: Sequence[str], texts: Sequence[list[int]], out: Path) -> None:
    """Print after how many of a text's tokens both engines choose the same, and how near the others are."""
    for file in files:
        same, nearness = 0, []
        for ids in texts:
            logits = []
            for engine in ("edgellm", "llama.cpp"):
                engines.of(engine, file).ask("save_logits", ids=ids, out=str(out))
                logits.append(np.load(out))
            ours, theirs = (each.argmax(axis=1) for each in logits)
            rows = np.flatnonzero(ours != theirs)
            same += len(ids) - len(rows)
            # What llama.cpp's own choice has more there than ours.
            nearness += list(logits[1][rows, theirs[rows]] - logits[1][rows, ours[rows]])
        middle, most = statistics.median(nearness or [0.0]), max(nearness, default=0.0)
        print(
            f"{file}: the same choice after {same} of {sum(map(len, texts))} tokens; logits of the others "
            f"differ by {middle:.3f}, at most {most:.3f}"
        )
    out.unlink()


def compare_speed(engines: Engines, files: Sequence[str], ids: list[int], turns: int) -> None:
    """Print the tokens a second of each file, and the quotient with the first one's."""
    seconds: dict[str, list[float]] = {file: [] for file in files}
    for turn in range(turns):
        for file in files:
            ask = {"ids": ids[:_PROMPT], "n": 16, "keep": turn > 0}
            seconds[file].append(engines.of("edgellm", file).ask("generate", **ask)["seconds"] / 16)
    first = statistics.median(seconds[files[0]])
    for file in files:
        middle, quick = statistics.median(seconds[file]), min(seconds[file])
        print(
            f"{file}: {1 / middle:.1f} tokens a second, {first / middle:.3f} of the first file's; the "
            f"best of each {min(seconds[files[0]]) / quick:.3f}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--source", required=True, help="the unquantized file's name in the folder")
    parser.add_argument("--files", required=True, help="names of files in the folder, separated by commas")
    parser.add_argument("--tokens", type=int, default=2048, help="that llama.cpp judges; 0: none")
    parser.add_argument("--turns", type=int, default=40, help="of each file, for its speed")
    parser.add_argument("-t", "--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    files = options.files.split(",")
    with GGUFFile.open(options.folder / options.source) as file:
        texts = windows(Tokenizer.from_metadata(file.metadata), max(options.tokens, 4096))
    engines = Engines(options)
    try:
        if options.tokens:
            n = options.tokens // len(texts[0])
            judge(engines, options.source, files, texts[:n], options.folder / "logits.npy")
        compare_tokens(engines, files, texts[:6])
        compare_choices(engines, files, texts[:4], options.folder / "logits.npy")
        compare_speed(engines, files, texts[0], options.turns)
    finally:
        engines.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
