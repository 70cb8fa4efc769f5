"""Counts the instructions of whole tokens on Arm under emulation: prefill of 64 tokens, then 16 greedy ones.

    .ci/arm build/arm
    cmake --build build/arm/64 --target token_bench
    python bench/arm_tokens.py build/arm/64/token_bench -m model.gguf [--peer PROGRAM]

Each engine computes the same ids on one thread; loading and the choice of tokens are not counted. A plugin of
QEMU (bench/arm/profile.c) counts instructions by the address where they stand, and the linker's map
(PROGRAM.map) says the kind of work. PROGRAM is a driver for llama.cpp: bench/arm/llama_tokens.cpp.

Needs qemu-aarch64 of QEMU 6 to 8 (Debian 12's qemu-user), aarch64-linux-gnu-g++ and a C compiler.
"""

from __future__ import annotations

import argparse
import bisect
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.arm_work import build_plugin, marks  # noqa: E402
from edgellm.families import build  # noqa: E402
from edgellm.gguf.reader import GGUFFile  # noqa: E402
from edgellm.program import to_text  # noqa: E402
from edgellm.tokenizer.tokenizer import Tokenizer  # noqa: E402

N_PROMPT, N_TOKENS = 64, 16
# The prompt is the first N_PROMPT tokens of it: greedy answers to no text have many logits nearly alike.
TEXT = """The lighthouse keeper wrote a letter every evening, and every evening he put it in a bottle. In the
first one he told of the weather, of the ships that had passed and of the gulls on the rail. In the
second he asked who would read it. Years later a girl found one of them between the stones of a
harbour to the south. She read it twice, took a pencil, and began to"""
# Kinds of work, by the object file and the function in which an instruction stands; the first that fits.
KINDS = (
    (
        "attention",
        r"kernels/attention|run_attention|flash_attn|soft_max|vec_dot_f16|vec_mad_f16|mul_mat.*f16",
    ),
    (
        "matrices",
        r"kernels/linear|linear_part|run_linear|run_top_logits|gem[mv]|vec_dot|sgemm|mul_mat|repack|quants",
    ),
    ("state", r"kernels/state|run_state|ssm|gated_delta|conv"),
    ("rows", r"kernels/rows|run_rows|ops\.cpp|vec\.cpp|rope|norm|binary-ops|unary-ops"),
)
_SECTION = re.compile(r"^ \.text\S*\s+0x([0-9a-f]+)\s+0x([0-9a-f]+) (\S+)$", re.MULTILINE)


class Place(NamedTuple):
    """Addresses [first, last) of one object file."""

    first: int
    last: int
    file: str


def export(model: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Write the program and the table of weights that token_bench reads.

    Returns its first three arguments, and the ids of the prompt.
    """
    with GGUFFile.open(model) as file:
        shapes = {name: info.shape for name, info in file.tensors.items()}
        program = build(file.metadata, shapes)
        ids = Tokenizer.from_metadata(file.metadata).encode(TEXT)[:N_PROMPT]
        weights = {name: file.tensors[name] for name in program.weights}
    (folder / "program").write_text(to_text(program))
    lines = [f"{name} {int(t.type)} {t.offset} {t.n_bytes}\n" for name, t in weights.items()]
    (folder / "table").write_text("".join(lines))
    if len(ids) < N_PROMPT:
        raise SystemExit(f"{model}: the text has {len(ids)} tokens, expected at least {N_PROMPT}")
    return [str(folder / "program"), str(model), str(folder / "table")], [str(i) for i in ids]


def places(program: Path) -> list[Place]:
    """Return the object files of a program's instructions, by the linker's map beside it."""
    # A long name of a section has its numbers on the next line.
    text = re.sub(r"^( \.text\S+)\n\s+", r"\1 ", Path(f"{program}.map").read_text(), flags=re.MULTILINE)
    found = [(int(at, 16), int(size, 16), file) for at, size, file in _SECTION.findall(text)]
    return sorted(Place(at, at + size, file) for at, size, file in found if at and size)


def functions(program: Path) -> list[tuple[int, str]]:
    """Return the addresses and names of a program's functions."""
    command = ["aarch64-linux-gnu-nm", "-C", str(program)]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return sorted((int(at, 16), name) for at, name in re.findall(r"^([0-9a-f]+) [tTwW] (.*)$", listing, re.M))


def kind_of(address: int, files: Sequence[Place], names: Sequence[tuple[int, str]]) -> str:
    """Return the kind of work of the instruction at an address."""
    i = bisect.bisect_right(files, address, key=lambda place: place.first) - 1
    file = files[i].file if i >= 0 and address < files[i].last else ""
    j = bisect.bisect_right(names, address, key=lambda item: item[0]) - 1
    where = f"{file} {names[j][1] if j >= 0 else ''}"
    return next((kind for kind, pattern in KINDS if re.search(pattern, where)), "other")


def run(program: Path, plugin: Path, arguments: Sequence[str], cpu: str) -> tuple[str, list[Counter[str]]]:
    """Run a program; the tokens that it prints, and millions of instructions by kind of each marked part."""
    at = marks(program)
    options = f"{plugin},begin={at['begin']:#x},end={at['end']:#x}"
    command = ["qemu-aarch64", "-cpu", cpu, "-d", "plugin", "-plugin", options, str(program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{program}: exit {done.returncode}: {done.stderr[-300:]}")
    files, names, kinds = places(program), functions(program), dict[int, str]()
    regions: list[Counter[str]] = []
    for line in done.stderr.splitlines():
        words = line.split()
        if line.startswith("region "):
            regions.append(Counter())
        elif regions and re.fullmatch(r"[0-9a-f]+ \d+", line):
            address = int(words[0], 16)
            if address not in kinds:
                kinds[address] = kind_of(address, files, names)
            regions[-1][kinds[address]] += int(words[1])
    return done.stdout.strip(), regions


def show(name: str, regions: Sequence[Counter[str]]) -> dict[str, float]:
    """Print and return millions of instructions for a token of the prompt, and for one of the answer."""
    totals = {}
    for part, counts, n in (
        ("prefill", regions[0], N_PROMPT),
        ("decode", sum(regions[1:], Counter()), max(1, len(regions) - 1)),
    ):
        per_token = {kind: counts[kind] / n / 1e6 for kind in (*(kind for kind, _ in KINDS), "other")}
        totals[part] = sum(per_token.values())
        split = "".join(f"  {kind} {value:.2f}" for kind, value in per_token.items())
        print(f"{name:10}{part:8}{totals[part]:9.2f} million a token:{split}", flush=True)
    return totals


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, and print the split and the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program", type=Path, help="token_bench")
    parser.add_argument("-m", "--model", type=Path, action="append", required=True)
    parser.add_argument("--peer", type=Path, help="a driver for another engine")
    parser.add_argument("--set", default="dotprod", help="edgellm's kernel set")
    parser.add_argument("--cpu", default="cortex-a76", help="QEMU's name of the processor")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plugin = build_plugin(folder, "profile")
        for model in options.model:
            print(f"{model.name}, {options.cpu}, {options.set}")
            inputs, ids = export(model, folder)
            inputs += [options.set, str(N_TOKENS), *ids]
            tokens, regions = run(options.program, plugin, inputs, options.cpu)
            own = show("edgellm", regions)
            if options.peer is None:
                continue
            others, regions = run(options.peer, plugin, [str(model), str(N_TOKENS), *ids], options.cpu)
            peer = show("peer", regions)
            same = sum(a == b for a, b in zip(tokens.split(), others.split(), strict=False))
            ratios = ", ".join(f"{part} {own[part] / peer[part]:.2f}" for part in own)
            print(f"edgellm's share of the peer's: {ratios}; {same} of {N_TOKENS + 1} tokens equal")
    return 0


if __name__ == "__main__":
    sys.exit(main())
