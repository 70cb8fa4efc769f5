"""Speed beside other busy processes: 0, 1, 2 and 4 of them, with 1 and more threads, in turn.

    python -m bench.busy -m model.gguf --threads 1,2 --busy 0,1,2,4 --rounds 5 --peer-python peers/bin/python

A busy process only counts. The model is loaded once for each number of threads, by edgellm and by each peer
(`llama-cpp-python`, `ik-llama-cpp-python`) that the peers' Python has; within a round all take turns beside
the same processes, each for a prompt and an answer. Printed are medians of tokens per second over the rounds,
and what part of the speed of one thread several threads have at least. The exit status is 1 if edgellm's
several threads are slower than one by more than a tenth.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import edgellm
from bench.compare import Engine, peer_commands
from edgellm.engine.options import GenerateOptions

Answer = Callable[[int, int], tuple[float, float]]
Key = tuple[str, int]
OWN = "edgellm"

WORST = 0.9
CONTEXT = 1024


@contextmanager
def busy(n: int) -> Iterator[None]:
    """So many processes that only count."""
    command = [sys.executable, "-c", "while True: pass"]
    # Each in a session of its own: Linux shares time among sessions first.
    processes = [subprocess.Popen(command, start_new_session=True) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def prompt(n: int) -> list[int]:
    """The tokens of a prompt."""
    return [100 + i % 50 for i in range(n)]


def engine(model: Path, threads: int, stack: ExitStack) -> Answer:
    """A function that times a prompt and an answer on so many threads."""
    loaded = stack.enter_context(edgellm.load(model, threads=threads, context=CONTEXT, draft_max=0))

    def answer(n_prompt: int, n_generate: int) -> tuple[float, float]:
        ids = prompt(n_prompt)
        options = GenerateOptions(max_tokens=n_generate, temperature=0.0, ignore_eos=True)
        loaded.scheduler.stop()  # forgets the prompts it has read
        generation = loaded.generate(ids, options)
        for _ in generation:
            pass
        stats = generation.stats
        assert stats is not None
        return stats.prompt_tok_s, stats.generate_tok_s

    return answer


def peer(name: str, command: list[str], model: Path, threads: int, stack: ExitStack) -> Answer:
    """The same for a peer, which runs in a process of its own."""
    worker = stack.enter_context(closing(Engine(name, command)))
    worker.ask("load", model=str(model))
    worker.ask("open", context=CONTEXT, threads=threads, sequences=1)

    def answer(n_prompt: int, n_generate: int) -> tuple[float, float]:
        ids = prompt(n_prompt)
        read = worker.ask("prefill", ids=ids)["seconds"]
        written = worker.ask("generate", ids=ids, n=n_generate, keep=True)["seconds"]
        return n_prompt / read, n_generate / written

    return answer


def measure(
    answers: dict[Key, Answer], rounds: int, n_prompt: int, n_generate: int
) -> dict[Key, tuple[float, float]]:
    """Medians of (prompt, answer) tokens per second."""
    found: dict[Key, list[tuple[float, float]]] = {key: [] for key in answers}
    for i in range(rounds):
        # Back and forth: who answers after whom shows where processes are few.
        for key in list(answers)[:: -1 if i % 2 else 1]:
            found[key].append(answers[key](n_prompt, n_generate))
    return {
        key: (statistics.median(p for p, _ in figures), statistics.median(g for _, g in figures))
        for key, figures in found.items()
    }


def numbers(text: str) -> list[int]:
    """The numbers of a list with commas."""
    return [int(part) for part in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-m", "--model", required=True, type=Path)
    parser.add_argument("--threads", type=numbers, default=[1, 2])
    parser.add_argument("--busy", type=numbers, default=[0, 1, 2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("-p", "--prompt-tokens", type=int, default=256)
    parser.add_argument("-n", "--max-tokens", type=int, default=96)
    parser.add_argument("--peer-python", action="append", default=[], help="a Python that has peers")
    given = parser.parse_args(arguments)
    worst: dict[str, float] = {}
    print(f"{'busy':>4}  {'engine':>12} {'threads':>7} {'prompt tok/s':>13} {'answer tok/s':>13}")
    with ExitStack() as stack:
        answers = {(OWN, n): engine(given.model, n, stack) for n in sorted(given.threads)}
        for name, command in peer_commands(given.peer_python).items():
            for n in sorted(given.threads):
                answers[name, n] = peer(name, command, given.model, n, stack)
        measure(answers, 1, given.prompt_tokens, given.max_tokens)
        for n_busy in given.busy:
            with busy(n_busy):
                medians = measure(answers, given.rounds, given.prompt_tokens, given.max_tokens)
            for (name, threads), (read, written) in medians.items():
                print(f"{n_busy:>4}  {name:>12} {threads:>7} {read:>13.1f} {written:>13.1f}", flush=True)
                if (name, 1) in medians:
                    one = medians[name, 1]
                    worst[name] = min(worst.get(name, 1.0), read / one[0], written / one[1])
    for name, ratio in worst.items():
        print(f"least speed of several threads of {name} beside one thread's: {ratio:.2f}")
    return 0 if worst.get(OWN, 1.0) >= WORST else 1


if __name__ == "__main__":
    sys.exit(main())
