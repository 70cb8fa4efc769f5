"""Rates of the engine on this machine, measured once with models of zeros: the ground of predictions.

A limit says how fast a machine could read and multiply; a rate says how fast the engine's kernels do, format
by format. Both are measured, so a prediction holds for machines and instruction sets that nobody has tried.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgellm import __version__
from edgellm.backends.native import NativeBackend, faster_kv_type
from edgellm.benchmark.work import Work, count_work
from edgellm.device.cores import cpu_name
from edgellm.device.describe import load_average
from edgellm.device.limits import Limits, measure_limits
from edgellm.gguf.types import LAYOUTS, GGMLType
from edgellm.program import Builder, Program

# Tokens of a step of a prompt.
STEP_TOKENS = 256
# Weights that a probe of answers reads: no cache of a machine of this class holds them.
_STREAM_BYTES = 96 << 20
_NARROW = 512
_VOCABULARY = 1 << 16
# Width of models whose prompts are measured; their hidden parts are three times as wide.
_WIDTH = 2048
# Most that a value of a prompt costs, in multiply-adds of floats.
_VALUE_MACS = 50
# Format of most files.
_COMMON = GGMLType.Q4_K
_DEPTH = 1024
_LAYERS = 12
_SECONDS = 0.3
_FORM = 3
_BUSY_LOAD = 1.0


@dataclass(frozen=True, slots=True)
class FormatRate:
    """Seconds for a byte of weights of one format in an answer, and for a multiply-add of a prompt."""

    byte_s: float
    mac_s: float


@dataclass(frozen=True, slots=True)
class Rates:
    """Rates of the engine with an instruction set, threads and a type of cache.

    op_s: of an operation of a step, beside its bytes. logit_s: of a logit, beside its bytes. value_s: of a
    value that a prompt's operation makes. cache_byte_s: of a byte of keys and values in an answer.
    attention_mac_s: of a multiply-add of attention in a prompt. All in seconds.
    """

    isa: str
    threads: int
    kv_type: str
    op_s: float
    logit_s: float
    value_s: float
    cache_byte_s: float
    attention_mac_s: float
    limits: Limits
    formats: Mapping[str, FormatRate]


class RateBook:
    """Rates of this machine, measured where they are missing and kept in a file.

    path: None keeps nothing. A file that cannot be read or written costs the measurement again. anew:
    measures what is kept, too.
    """

    def __init__(
        self,
        path: Path | None,
        say: Callable[[str], None] = lambda sentence: None,
        *,
        anew: bool = False,
    ) -> None:
        self._path = path
        self._say = say
        self._said = False
        self._kept = {} if anew else _read(path)

    def rates(self, formats: Iterable[str], *, threads: int, isa: str = "", kv_type: str = "auto") -> Rates:
        """Rates for these formats, by name; ModelError for one that the engine does not multiply by."""
        chosen = isa or os.environ.get("EDGELLM_ISA") or _default_isa()
        kind = faster_kv_type(chosen) if kv_type == "auto" else kv_type
        key = f"{chosen} {threads} {kind}"
        entry: dict[str, Any] = self._kept.get(key) or {"formats": {}}
        missing = sorted(set(formats) - entry["formats"].keys())
        if "op_s" not in entry or missing:
            self._announce()
            probe = _Probe(chosen, threads, kind)
            if "op_s" not in entry:
                entry |= probe.measure_steps()
            for name in missing:
                entry["formats"][name] = probe.measure_format(name, entry)
            self._kept[key] = entry
            _write(self._path, self._kept)
        known = {name: FormatRate(**rate) for name, rate in entry["formats"].items()}
        own = {
            name: entry[name] for name in ("op_s", "logit_s", "value_s", "cache_byte_s", "attention_mac_s")
        }
        return Rates(chosen, threads, kind, **own, limits=Limits(**entry["limits"]), formats=known)

    def _announce(self) -> None:
        if self._said:
            return
        self._said = True
        self._say("measuring this machine for predictions, some seconds once")
        load = load_average()
        if load is not None and load > _BUSY_LOAD:
            self._say(
                f"other programs are at work (a load of {load:.1f}), so the predictions will be too low; "
                "`edgellm fit --measure` on an idle machine measures again"
            )


def _default_isa() -> str:
    from edgellm.device.isa import read_isa

    sets = read_isa()
    return sets.chosen if sets else ""


def _read(path: Path | None) -> dict[str, Any]:
    """Entries of the file; none if it is of another machine, another version, or not whole."""
    if path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["machine"] != _machine():
            return {}
        return dict(content["rates"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write(path: Path | None, rates: Mapping[str, Any]) -> None:
    if path is None:
        return
    text = json.dumps({"machine": _machine(), "rates": rates}, indent=1)
    beside = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError:
        return  # a folder that cannot be written costs the measurement again


def _machine() -> list[Any]:
    """Facts that tell rates of this machine and engine from others."""
    spec = importlib.util.find_spec("edgellm._native")
    size = Path(spec.origin).stat().st_size if spec and spec.origin else 0
    return [_FORM, cpu_name(), os.cpu_count(), __version__, size]


class _Zeros:
    """A file of zeros for a program: the speed of the kernels does not depend on values."""

    path = Path("probe")
    torn = False

    def __init__(self, program: Program, kind: GGMLType) -> None:
        self.tensors = {
            name: _Tensor(kind if len(shape) > 1 else GGMLType.F32, shape)
            for name, shape in program.weights.items()
        }
        self._zeros = memoryview(bytes(max(tensor.n_bytes for tensor in self.tensors.values())))

    def view(self, name: str) -> memoryview:
        return self._zeros[: self.tensors[name].n_bytes]

    def check(self) -> None:
        return


class _Tensor:
    def __init__(self, kind: GGMLType, shape: tuple[int, ...]) -> None:
        layout = LAYOUTS[kind]
        self.type = kind
        self.n_bytes = math.prod(shape) // layout.block_size * layout.block_bytes


class _Probe:
    """Times the steps of generic transformers with one instruction set, thread count and type of cache."""

    def __init__(self, isa: str, threads: int, kv_type: str) -> None:
        self._isa = isa
        self._threads = threads
        self._kv_type = kv_type

    def measure_steps(self) -> dict[str, Any]:
        """Costs beside matrices: of operations, of values, of attention.

        A narrow and a wide model of one format tell a prompt's values from its multiply-adds, and an answer's
        operations from its bytes.
        """
        narrow, wide = _program(_NARROW, _NARROW, _LAYERS), self._wide(1)
        with self._engine(narrow, _COMMON, _DEPTH + STEP_TOKENS) as engine:
            short = engine.answer_s(1)
            first = engine.prompt_s(0)
            later = engine.prompt_s(_DEPTH - STEP_TOKENS)
            deep = engine.answer_s(_DEPTH)
            work = engine.work
        with self._engine(wide, _COMMON, 2 * STEP_TOKENS) as engine:
            large = engine.prompt_s(0)
            large_work = engine.work
        limits = measure_limits(self._threads, self._isa)
        op_s, byte_s = self._measure_streams()
        vocabulary = _program(_NARROW, _NARROW, _LAYERS, n_vocab=_VOCABULARY)
        with self._engine(vocabulary, _COMMON, 64) as engine:
            more_bytes = engine.work.head_bytes - work.head_bytes
            logits_s = engine.answer_s(1) - short - more_bytes * byte_s
        here = work.attention_macs(STEP_TOKENS, 0, every=True)
        more = work.attention_macs(STEP_TOKENS, _DEPTH - STEP_TOKENS, every=True) - here
        mac_s = max((later - first) / more, 0.5e-9 / limits.int8_gmac_s)
        ratio = work.token_macs() / large_work.token_macs()
        seconds = first - mac_s * here
        seconds -= ratio * (large - mac_s * large_work.attention_macs(STEP_TOKENS, 0, every=True))
        values = work.n_values - ratio * large_work.n_values
        cache_bytes = work.cache_bytes(_DEPTH) - work.cache_bytes(1)
        return {
            "op_s": max(op_s, (short - work.token_macs() / limits.int8_gmac_s / 1e9) / work.n_ops, 0.0),
            "logit_s": max(logits_s, 0.0) / _VOCABULARY,
            # The difference of two long times is uncertain; no value costs more than that.
            "value_s": min(
                max(seconds, 0.0) / (values * STEP_TOKENS), _VALUE_MACS / limits.float_gmac_s / 1e9
            ),
            "cache_byte_s": max((deep - short) / cache_bytes, 0.25e-9 / limits.read_gb_s),
            "attention_mac_s": mac_s,
            "limits": asdict(limits),
        }

    def _measure_streams(self) -> tuple[float, float]:
        """Seconds of an operation and of a byte, from narrow and wide layers that no cache holds."""
        found = []
        for width, n_ff in ((_NARROW, _NARROW), (_WIDTH, 3 * _WIDTH)):
            with self._stream(width, n_ff, _COMMON) as engine:
                work = engine.work
                found.append((engine.answer_s(1), work.body_bytes + work.head_bytes, work.n_ops))
        (narrow_s, narrow_bytes, narrow_ops), (wide_s, wide_bytes, wide_ops) = found
        ratio = narrow_bytes / wide_bytes
        op_s = max((narrow_s - ratio * wide_s) / (narrow_ops - ratio * wide_ops), 0.0)
        return op_s, (wide_s - op_s * wide_ops) / wide_bytes

    def _stream(self, width: int, n_ff: int, kind: GGMLType) -> _Engine:
        """Layers of `kind` that together have _STREAM_BYTES."""
        layer = sum(math.prod(shape) for shape in _program(width, n_ff, 1).weights.values() if len(shape) > 1)
        n_layers = -(-_STREAM_BYTES * kind.block_size // (layer * kind.block_bytes))
        return self._engine(_program(width, n_ff, n_layers), kind, 64)

    def measure_format(self, name: str, steps: Mapping[str, Any]) -> dict[str, float]:
        """Seconds for a byte of an answer and for a multiply-add of a prompt with matrices of one format.

        steps: costs beside matrices, which are taken off.
        """
        kind = GGMLType[name]
        with self._engine(self._wide(1), kind, 2 * STEP_TOKENS) as engine:
            work = engine.work
            others = steps["value_s"] * work.n_values * STEP_TOKENS
            others += steps["attention_mac_s"] * work.attention_macs(STEP_TOKENS, 0, every=True)
            mac_s = (engine.prompt_s(0) - others) / (work.token_macs() * STEP_TOKENS)
        with self._stream(_WIDTH, 3 * _WIDTH, kind) as engine:
            work = engine.work
            answer = engine.answer_s(1) - steps["op_s"] * work.n_ops
            byte_s = answer / (work.body_bytes + work.head_bytes)
        # No kernel is faster than the machine; what measured so was disturbed.
        limits = steps["limits"]
        return {
            "byte_s": max(byte_s, 0.5e-9 / limits["read_gb_s"]),
            "mac_s": max(mac_s, 1e-9 / limits["int8_gmac_s"]),
        }

    def _wide(self, n_layers: int) -> Program:
        return _program(_WIDTH, 3 * _WIDTH, n_layers)

    def _engine(self, program: Program, kind: GGMLType, n_ctx: int) -> _Engine:
        return _Engine(program, kind, n_ctx, self)

    def backend(self, program: Program, file: Any, n_ctx: int) -> NativeBackend:
        """A backend for a probe's program."""
        return NativeBackend(
            program,
            file,
            threads=self._threads,
            n_ctx=n_ctx,
            cache_tokens=n_ctx + 2 * STEP_TOKENS,
            batch=STEP_TOKENS,
            kv_type=self._kv_type,
            isa=self._isa,
        )


class _Engine:
    """A loaded probe, whose steps are timed; their faster quarter counts, which is the least disturbed."""

    def __init__(self, program: Program, kind: GGMLType, n_ctx: int, probe: _Probe) -> None:
        file = _Zeros(program, kind)
        self._backend = probe.backend(program, file, n_ctx)
        self._backend.load(release=False)
        sizes = {name: tensor.n_bytes for name, tensor in file.tensors.items()}
        self.work: Work = count_work(program, sizes, probe._kv_type)

    def __enter__(self) -> _Engine:
        return self

    def __exit__(self, *error: object) -> None:
        self._backend.close()

    def answer_s(self, depth: int) -> float:
        """Seconds of a step of one token after `depth` others."""
        sequence = self._filled(depth)
        n_undo = depth
        taken: list[float] = []
        begin = time.perf_counter()
        while len(taken) < 5 or time.perf_counter() - begin < _SECONDS:
            start = time.perf_counter()
            np.asarray(self._backend.step([1], [sequence], [True], 1)).argmax()
            taken.append(time.perf_counter() - start)
            self._backend.truncate_sequence(sequence, n_undo)
        self._backend.close_sequence(sequence)
        return _quarter(taken)

    def prompt_s(self, depth: int) -> float:
        """Seconds of a step of STEP_TOKENS tokens after `depth` others, all with logits.

        The engine leaves out what nothing needs: without logits, most of the last layer.
        """
        sequence = self._filled(depth)
        taken: list[float] = []
        begin = time.perf_counter()
        # The first run counts alone if it takes seconds, as on slow processors.
        while not taken or time.perf_counter() - begin < max(_SECONDS, 2 * taken[0] * (taken[0] < 1.0)):
            start = time.perf_counter()
            self._backend.step([1] * STEP_TOKENS, [sequence] * STEP_TOKENS, [True] * STEP_TOKENS)
            taken.append(time.perf_counter() - start)
            self._backend.truncate_sequence(sequence, depth)
        self._backend.close_sequence(sequence)
        return _quarter(taken)

    def _filled(self, depth: int) -> int:
        sequence = self._backend.open_sequence()
        for start in range(0, depth, STEP_TOKENS):
            n = min(STEP_TOKENS, depth - start)
            self._backend.step([1] * n, [sequence] * n, [*[False] * (n - 1), True], 1)
        return sequence


def _quarter(seconds: list[float]) -> float:
    return sorted(seconds)[len(seconds) // 4]


def _program(width: int, n_ff: int, n_layers: int, n_vocab: int = 256) -> Program:
    """A transformer of grouped-query attention (heads of 64 values) and gated parts."""
    b = Builder("probe", n_vocab=n_vocab, width=width, n_layers=n_layers, n_ctx_train=1 << 20)
    n_heads = width // 64
    n_kv = max(1, n_heads // 4)
    table = b.table("rope", [10000.0 ** (-i / 32) for i in range(32)])
    x = b.embed("embedding", n_vocab, width)
    for i in range(n_layers):
        y = b.norm(x, kind="rms", eps=1e-5, weight=f"{i}.norm")
        q = b.rope(b.linear(y, f"{i}.q", width), groups=n_heads, table=table)
        k = b.rope(b.linear(y, f"{i}.k", n_kv * 64), groups=n_kv, table=table)
        v = b.linear(y, f"{i}.v", n_kv * 64)
        y = b.attention(q, k, v, cache=b.cache(n_kv, 64, 64), n_heads=n_heads, scale=0.125)
        x = b.add(x, b.linear(y, f"{i}.out", width))
        y = b.norm(x, kind="rms", eps=1e-5, weight=f"{i}.norm2")
        y = b.glu(b.linear(y, f"{i}.gate", n_ff), b.linear(y, f"{i}.up", n_ff))
        x = b.add(x, b.linear(y, f"{i}.down", width))
    x = b.norm(x, kind="rms", eps=1e-5, weight="norm")
    return b.build(hidden=x, logits=b.linear(x, "embedding", n_vocab))
