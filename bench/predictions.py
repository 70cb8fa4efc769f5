"""Predictions of `edgellm fit` beside measurements, model by model and instruction set by instruction set.

    python bench/predictions.py model.gguf other.gguf --isa avx2,scalar

Rates are measured anew for each run, on the machine as it is then. Prints a Markdown table, and exits with 1
if a measurement lies outside the range that `fit` gives.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edgellm.benchmark.fitting import fit_file  # noqa: E402
from edgellm.benchmark.prediction import ANSWER_TOKENS, PROMPT_TOKENS, SPREAD  # noqa: E402
from edgellm.benchmark.probe import RateBook  # noqa: E402
from edgellm.benchmark.runner import Runner, Trial, cache_tokens  # noqa: E402
from edgellm.engine.load_options import LoadOptions  # noqa: E402
from edgellm.gguf.reader import GGUFFile  # noqa: E402


def measured(path: Path, options: LoadOptions, tests: list[Trial], repetitions: int) -> list[float]:
    """Tokens a second of each test, of the faster quarter of its repetitions, as for the rates."""
    runner = Runner(path, options, tests)
    try:
        results = [runner.run(test, repetitions) for test in tests]
    finally:
        runner.close()
    return [r.test.n_tokens / sorted(r.seconds)[len(r.seconds) // 4] for r in results]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--isa", default="", help="instruction sets with commas between")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--repetitions", type=int, default=5)
    parser.add_argument(
        "-p", "--prompt", type=int, default=PROMPT_TOKENS, help="tokens of the prompt that runs"
    )
    args = parser.parse_args()
    print("| model | set | prompt: predicted, measured | | answer: predicted, measured | |")
    print("| --- | --- | --: | --: | --: | --: |")
    worst = 0.0
    for isa in args.isa.split(","):
        book = RateBook(None)
        for path in args.models:
            tests = [Trial(args.prompt, 0), Trial(0, ANSWER_TOKENS)]
            options = LoadOptions(threads=args.threads, isa=isa, context=max(t.length for t in tests))
            with GGUFFile.open(path) as file:
                speed = fit_file(file, options, book).speed
            with_room = LoadOptions(
                threads=args.threads, isa=isa, context=options.context, cache_tokens=cache_tokens(tests)
            )
            found = measured(path, with_room, tests, args.repetitions)
            cells = [path.stem, isa or "best"]
            for predicted, rate in zip((speed.prompt_tok_s, speed.answer_tok_s), found, strict=True):
                assert predicted is not None
                off = rate / predicted - 1
                worst = max(worst, abs(off))
                cells += [f"{predicted:.4g}, {rate:.4g}", f"{off:+.0%}"]
            print(f"| {' | '.join(cells)} |", flush=True)
    print(f"\nworst: {worst:.0%}")
    return 1 if worst > SPREAD else 0


if __name__ == "__main__":
    sys.exit(main())
