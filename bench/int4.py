"""Divergence of quantized files from their source, beside those that llama.cpp's quantizer writes.

    python -m bench.int4 FOLDER --peer-python VENV/bin/python --smollm2 FILE --gemma FILE

Sources are the two files taken off their grids (`int4_sources.py`). Both quantizers get the same importances,
of the bundled text that calibration reads, or none. Files of one row have the same bytes: where formats are
chosen, the peer's are the budget, elsewhere each tensor has the peer's format. edgellm's engine is the judge,
over windows of 512 tokens of a book, of the bundled text that calibration does not read, of manuals and of
code. What is done is kept in the folder, so that the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import edgellm
from bench.compare import CHECKOUT, HERE, TEXT, Engine
from bench.int4_sources import make_source
from edgellm.convert.calibrating import calibrate_fully, choose_formats
from edgellm.convert.calibration import held_out_texts, plain_text
from edgellm.convert.pipeline import FilePlan, write
from edgellm.convert.receipt import RUN, Divergence
from edgellm.convert.recipes import recipe
from edgellm.convert.requantize import plan_requantization
from edgellm.gguf.reader import GGUFFile
from edgellm.tokenizer import Tokenizer

WINDOW = 512
# Texts of the judge beside the bundled one.
_BOOK = (TEXT,)
_MANUALS = (CHECKOUT / "docs/serving.md", CHECKOUT / "docs/architecture.md")
_CODE = (CHECKOUT / "native/text/regex_parser.cc", CHECKOUT / "bench/compare.py")


class Source(NamedTuple):
    """An unquantized model: the option that names its file, and if that is widened."""

    option: str
    pad: bool


SOURCES = {
    "smollm2-padded": Source("smollm2", True),
    "gemma-padded": Source("gemma", True),
    "gemma": Source("gemma", False),
}


class Row(NamedTuple):
    """A comparison; way: of edgellm. most: the ratio of divergences that is asked for."""

    source: str
    kind: str
    way: str
    most: float

    @property
    def ours(self) -> str:
        return f"{self.source}-{self.kind}-{self.way}.gguf"

    @property
    def peer(self) -> str:
        return f"{self.source}-{self.kind}-llama.cpp{'' if self.way == 'fast' else '-imatrix'}.gguf"


ROWS = [
    Row("smollm2-padded", "Q4_K_M", "best", 0.6),
    Row("smollm2-padded", "Q3_K_M", "best", 0.4),
    Row("smollm2-padded", "Q2_K", "best", 0.6),
    Row("smollm2-padded", "Q5_K_M", "best", 0.7),
    Row("smollm2-padded", "IQ4_XS", "calibrate", 0.65),
    Row("smollm2-padded", "Q4_0", "calibrate", 0.6),
    Row("gemma-padded", "Q4_K_M", "best", 0.75),
    Row("gemma-padded", "Q3_K_M", "best", 0.6),
    Row("gemma", "Q4_K_M", "best", 0.3),
    *(Row("smollm2-padded", kind, "fast", 1.0)
      for kind in ("Q2_K", "Q3_K_M", "IQ4_XS", "Q4_K_M", "Q5_K_M", "Q4_0")),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Judged:
    """Divergences of a file: means of runs of positions, 99th percentile, share of equal choices."""

    n_bytes: int
    runs: list[float]
    p99: float
    top1: float

    @property
    def mean(self) -> float:
        return float(np.mean(self.runs))

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return float(np.std(self.runs, ddof=1) / np.sqrt(len(self.runs)))


def ratio(ours: Judged, peer: Judged) -> tuple[float, float]:
    """Quotient of two means over the same positions, and its standard error."""
    a, b = np.array(ours.runs), np.array(peer.runs)
    found = float(a.sum() / b.sum())
    off = a - found * b
    return found, float(np.sqrt((off**2).sum() * len(a) / (len(a) - 1)) / b.sum())


def windows(tokenizer: Tokenizer, n_tokens: int) -> list[list[int]]:
    """Windows of the judge's texts in turn, of n_tokens tokens in all."""
    bundled = "\n\n".join(map(plain_text, held_out_texts()))
    texts = [bundled, *("\n\n".join(map(Path.read_text, paths)) for paths in (_BOOK, _MANUALS, _CODE))]
    before, after = tokenizer.surroundings
    step = WINDOW - len(before) - len(after)

    def split(text: str) -> Iterator[list[int]]:
        ids = tokenizer.encode(text, add_special=False)
        for start in range(0, len(ids) - step + 1, step):
            yield [*before, *ids[start : start + step], *after]

    turns = zip_longest(*map(split, texts))
    found = [window for turn in turns for window in turn if window is not None]
    n = -(-n_tokens // WINDOW)
    if len(found) < n:
        raise SystemExit(f"the texts have {len(found) * WINDOW} tokens; ask for no more with --tokens")
    return found[:n]


class Bench:
    """The folder of files and results."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder: Path = options.folder
        self.folder.mkdir(exist_ok=True)
        self._engine: Engine | None = None
        self._results = self.folder / "results.json"

    def peer(self) -> Engine:
        """The worker of llama.cpp; started when it is first asked for."""
        if self._engine is None:
            worker = str(HERE / "peer_worker.py")
            self._engine = Engine("llama.cpp", [str(self.options.peer_python), worker, "llama.cpp"])
        return self._engine

    def close(self) -> None:
        """End the worker."""
        if self._engine is not None:
            self._engine.close()

    def source(self, name: str) -> Path:
        """Path of an unquantized model, which is made first."""
        path = self.folder / f"{name}.gguf"
        if not path.exists():
            given = getattr(self.options, SOURCES[name].option)
            if given is None:
                raise SystemExit(f"--{SOURCES[name].option} FILE is wanted for {name}")
            make_source(given, path, pad=SOURCES[name].pad)
        return path

    def plan(self, file: GGUFFile, kind: str) -> FilePlan:
        """Plan of a file of a type, from its source."""
        return plan_requantization(file, recipe(kind), threads=self.options.threads)

    def calibrate(self, name: str, plan: FilePlan) -> Path:
        """Give a plan what the calibration of its source finds; returns the folder that keeps it."""
        folder = self.folder / f"{name}.calibration"
        calibrate_fully(plan, None, folder, name, self.options.threads, say)
        return folder

    def write_peer(self, row: Row) -> None:
        """Write the peer's file."""
        imatrix = ""
        if row.way != "fast":
            imatrix = str(self.folder / f"{row.source}.npz")
            if not Path(imatrix).exists():
                with GGUFFile.open(self.source(row.source)) as file:
                    plan = self.plan(file, row.kind)
                    self.calibrate(row.source, plan)
                values = {t.name: t.importance for t in plan.tensors if t.importance is not None}
                np.savez(imatrix, **values)  # type: ignore[arg-type]
        out = self.folder / "peer.part"
        self.peer().ask(
            "quantize",
            source=str(self.source(row.source)),
            out=str(out),
            file_type=recipe(row.kind).file_type,
            threads=self.options.threads,
            imatrix=imatrix,
        )
        out.rename(self.folder / row.peer)

    def write_ours(self, row: Row) -> None:
        """Write edgellm's file of the peer's bytes."""
        with (
            GGUFFile.open(self.folder / row.peer) as peer,
            GGUFFile.open(self.source(row.source)) as file,
        ):
            plan = self.plan(file, row.kind)
            if row.way == "best":
                folder = self.calibrate(row.source, plan)
                (folder / "formats.json").unlink(missing_ok=True)
                budget = sum(info.n_bytes for info in peer.tensors.values())
                choose_formats(plan, budget, folder, self.options.threads, say)
            else:
                if row.way == "calibrate":
                    self.calibrate(row.source, plan)
                types = {name: info.type for name, info in peer.tensors.items()}
                plan.tensors = [replace(t, type=types.get(t.name, t.type)) for t in plan.tensors]
            write(plan, self.folder / row.ours, threads=self.options.threads)

    def results(self) -> dict[str, Judged]:
        """Results by file, without those of files that have changed."""
        kept = json.loads(self._results.read_text()) if self._results.exists() else {}
        found = {}
        for name, (stamp, values) in kept.items():
            if self._stamp(name) == stamp:
                found[name] = Judged(**values)
        return found

    def _stamp(self, name: str) -> list[float]:
        path = self.folder / name
        return [path.stat().st_size, path.stat().st_mtime, self.options.tokens] if path.exists() else []

    def judge(self, name: str, files: Sequence[str]) -> None:
        """Compare files with their source, all of them window by window."""
        found = {file: Divergence() for file in files}
        settings: dict[str, Any] = {"threads": self.options.threads, "context": WINDOW}
        models = {file: edgellm.load(self.folder / file, **settings) for file in files}
        with edgellm.load(self.source(name), **settings) as base:
            for ids in windows(base.tokenizer, self.options.tokens):
                expected = base.logits(ids)
                for file, model in models.items():
                    found[file].add(expected, model.logits(ids), ids)
        results = {file: [self._stamp(file), asdict(judged)] for file, judged in self.results().items()}
        for file, model in models.items():
            model.close()
            positions = found[file].positions
            runs = [float(run.mean()) for run in np.array_split(positions, len(positions) // RUN)]
            judged = Judged((self.folder / file).stat().st_size, runs, found[file].kld_p99, found[file].top1)
            results[file] = [self._stamp(file), asdict(judged)]
        self._results.write_text(json.dumps(results))


def table(rows: Sequence[Row], results: dict[str, Judged]) -> str:
    """Rows in Markdown: mean divergences, 99th percentiles and equal choices of both, and their quotient."""
    lines = [
        "| Source, type, way | MB (llama.cpp) | edgellm (99 %, same choice) | llama.cpp | ratio | asked |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours, peer = results.get(row.ours), results.get(row.peer)
        if ours is None or peer is None:
            continue
        found, error = ratio(ours, peer)
        cells = [
            f"{each.mean:.4f} ± {each.error:.4f} ({each.p99:.2f}, {100 * each.top1:.1f} %)"
            for each in (ours, peer)
        ]
        sizes = f"{ours.n_bytes / 1e6:.1f} ({peer.n_bytes / 1e6:.1f})"
        mark = "" if found <= row.most else " missed"
        lines.append(
            f"| {row.source} {row.kind} --{row.way} | {sizes} | {cells[0]} | {cells[1]} "
            f"| {found:.3f} ± {error:.3f} | {row.most}{mark} |"
        )
    return "\n".join(lines)


def say(text: str) -> None:
    """Progress for a person."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write and judge the files that are not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="for files and results, 4 GB")
    parser.add_argument("--peer-python", type=Path, help="a Python with llama-cpp-python")
    parser.add_argument("--smollm2", type=Path, help="SmolLM2-135M-Instruct, any GGUF")
    parser.add_argument("--gemma", type=Path, help="gemma-3-270m, any GGUF")
    parser.add_argument("--only", default="", help="rows whose file names match this expression")
    parser.add_argument("--tokens", type=int, default=6144)
    parser.add_argument("-t", "--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    rows = [row for row in ROWS if re.search(options.only, row.ours)]
    bench = Bench(options)
    try:
        for row in rows:
            for file, make in ((row.peer, bench.write_peer), (row.ours, bench.write_ours)):
                if not (bench.folder / file).exists():
                    say(f"writing {file}")
                    make(row)
    finally:
        bench.close()
    for name in SOURCES:
        files = {file for row in rows if row.source == name for file in (row.ours, row.peer)}
        wanted = sorted(files - bench.results().keys())
        if wanted:
            say(f"judging {', '.join(wanted)}")
            bench.judge(name, wanted)
    print(table(rows, bench.results()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
