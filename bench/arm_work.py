"""Counts the work of the kernels on Arm under emulation, and compares it with what is on record.

    .ci/arm build/arm
    cmake --build build/arm/64 --target linear_bench attention_bench
    python bench/arm_work.py build/arm/64/linear_bench [--write] [--mca]

`attention_bench` lies beside `linear_bench`. Instructions of a whole `matmul` or `attend` are counted by a
plugin of QEMU (bench/arm/count.c): exactly, and each time the same. A kernel that needs 3 % more than
`bench/results/arm-work.json` says fails the check. `--mca` adds multiply-adds per cycle, by LLVM's models of
processors on the executed instructions: an estimate, in which all loads hit the first cache.
docs/benchmarks.md has the table.

Needs qemu-aarch64 of QEMU 6 to 8 (Debian 12: qemu-user), aarch64-linux-gnu-g++, a C compiler, and for `--mca`
llvm-mca-19.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
RECORD = HERE / "results/arm-work.json"
TOLERANCE = 1.03
LEGACY = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4")
SUPER = ("Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "Q2_K", "Q3_K", "IQ2_XS", "IQ3_XXS", "TQ2_0")
# LLVM's models: Cortex-A76 is neoverse-n1's, Cortex-A710 n2's, Cortex-X3 v2's. Its A72 is A57's.
MODELS = {"neon": ["cortex-a72"], "dotprod": ["neoverse-n1"], "i8mm": ["neoverse-n2", "neoverse-v2"]}
TOKENS = {"neon": (1, 96), "dotprod": (1, 4, 96), "i8mm": (96,)}
# Cache, queries, width of a head. All sets share their code, and each gives the processor of a model.
ATTENTION = ("f16:16:64", "f16:1:64", "f16:16:128", "q8_0:16:64", "i16:16:64", "f32:16:64")
FEATURES = "+dotprod,+i8mm"
PIECES = 8  # of the trace, spread over all of it, are modelled
MODELLED = 160_000  # instructions in all


@dataclass(frozen=True, slots=True)
class Work:
    """Work per multiply-add: instructions, and bytes read and written."""

    instructions: float
    read: float
    written: float


def all_kernels() -> list[str]:
    """Return the kernels that are counted: set:format:tokens and set:attention:cache:queries:width."""
    linear = [f"{s}:{f}:{t}" for s, tokens in TOKENS.items() for t in tokens for f in LEGACY + SUPER]
    return linear + [f"{s}:attention:{case}" for s in ("neon", "dotprod") for case in ATTENTION]


def program_of(binary: Path, kernel: str) -> tuple[Path, str]:
    """Return the program that runs a kernel, and its argument."""
    if ":attention:" in kernel:
        return binary.with_name("attention_bench"), kernel.replace(":attention", "")
    return binary, kernel


def build_plugin(folder: Path, name: str) -> Path:
    """Compile a plugin of bench/arm and return its path."""
    plugin = folder / f"{name}.so"
    source = HERE / f"arm/{name}.c"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", str(source), "-o", str(plugin)], check=True)
    return plugin


def marks(binary: Path) -> dict[str, int]:
    """Return the addresses of the functions that mark the counted part."""
    listing = subprocess.run(["aarch64-linux-gnu-nm", binary], check=True, capture_output=True, text=True)
    found = re.findall(r"^([0-9a-f]+) \w edgellm_region_(begin|end)$", listing.stdout, re.MULTILINE)
    return {name: int(address, 16) for address, name in found}


def count(binary: Path, plugin: Path, kernel: str, trace: Path | None) -> tuple[Work, int]:
    """Return a kernel's work per multiply-add, and its multiply-adds."""
    binary, argument = program_of(binary, kernel)
    at = marks(binary)
    options = f"{plugin},begin={at['begin']:#x},end={at['end']:#x}" + (f",trace={trace}" if trace else "")
    command = ["qemu-aarch64", "-cpu", "max", "-d", "plugin", "-plugin", options, str(binary), argument]
    run = subprocess.run(command, capture_output=True, text=True)
    text = run.stdout + run.stderr
    macs = re.search(r"macs (\d+)", text)
    counted = re.search(r"instructions (\d+) read (\d+) written (\d+)", text)
    if run.returncode or not macs or not counted:
        raise SystemExit(f"{kernel}: exit {run.returncode}: {text.strip()[-300:]}")
    n = int(macs[1])
    instructions, read, written = (round(int(v) / n, 4) for v in counted.groups())
    return Work(instructions, read, written), n


def assembly(binary: Path) -> dict[int, str]:
    """Return the instructions of a program by address, as llvm-mca reads them."""
    listing = subprocess.run(
        ["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", binary],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = {}
    for address, text in re.findall(r"^ *([0-9a-f]+):\t(.*)$", listing, re.MULTILINE):
        line = re.sub(r"\s*//.*", "", text).replace("\t", " ")
        line = re.sub(r"^(b\.?\w*|bl|cbn?z [^,]+,|tbn?z [^,]+, [^,]+,) [0-9a-f]+ <.*>$", r"\1 #16", line)
        found[int(address, 16)] = re.sub(r"^(adrp? \w+,) [0-9a-f]+.*$", r"\1 #0", line)
    return found


def macs_per_cycle(lines: dict[int, str], trace: Path, macs: int, model: str) -> float:
    """Return multiply-adds per cycle of pieces of a trace, by LLVM's model of a processor."""
    data = trace.read_bytes()
    addresses = struct.unpack(f"<{len(data) // 4}I", data)
    size = min(len(addresses), MODELLED) // PIECES
    starts = [(len(addresses) - size) * i // (PIECES - 1) for i in range(PIECES)]
    text = "\n".join(lines[a] for start in starts for a in addresses[start : start + size])
    command = ["llvm-mca-19", "-mtriple=aarch64-linux-gnu", f"-mcpu={model}", f"-mattr={FEATURES}"]
    options = ["-iterations=1", "-instruction-info=0", "-resource-pressure=0"]
    run = subprocess.run([*command, *options], input=text, capture_output=True, text=True, check=True)
    cycles = re.search(r"Total Cycles: +(\d+)", run.stdout)
    assert cycles
    return round(macs * size * PIECES / len(addresses) / int(cycles[1]), 2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Count, print, and compare with the record or write it; 1 if a kernel does more work than on record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("binary", type=Path)
    parser.add_argument("--write", action="store_true", help="make the counts the record")
    parser.add_argument("--mca", action="store_true", help="model cycles, too")
    parser.add_argument("--only", default="", help="kernels whose names have this in them")
    options = parser.parse_args(arguments)
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    found: dict[str, dict[str, float]] = {}
    worse = []
    listings: dict[Path, dict[int, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        plugin = build_plugin(Path(folder), "count")
        trace = Path(folder) / "trace" if options.mca else None
        for kernel in all_kernels():
            if options.only not in kernel:
                continue
            work, macs = count(options.binary, plugin, kernel, trace)
            found[kernel] = asdict(work)
            before = record.get(kernel, {}).get("instructions")
            if before is None or work.instructions > before * TOLERANCE:
                worse.append(kernel)
            shown = f"{kernel:28}{work.instructions:8.4f}{work.read + work.written:8.3f}"
            if trace:
                program = program_of(options.binary, kernel)[0]
                if program not in listings:
                    listings[program] = assembly(program)
                cycles = {
                    m: macs_per_cycle(listings[program], trace, macs, m) for m in MODELS[kernel.split(":")[0]]
                }
                found[kernel] |= cycles
                shown += "".join(f"  {model} {value:6.2f}" for model, value in cycles.items())
            print(shown, flush=True)
    if options.write:
        RECORD.write_text(json.dumps(record | found, indent=1, sort_keys=True) + "\n")
        return 0
    for kernel in worse:
        before = record.get(kernel, {}).get("instructions")
        print(f"{kernel}: {found[kernel]['instructions']} instructions per multiply-add, on record {before}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
