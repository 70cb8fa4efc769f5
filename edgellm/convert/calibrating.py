"""Calibration of planned files: the text, the reading, its progress, the formats chosen by it."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

from edgellm.chat.template import ChatTemplate
from edgellm.convert.allocation import Pace, allocate, candidates, options, sensitivities
from edgellm.convert.calibration import (
    FULL_TOKENS,
    QUICK_TOKENS,
    Render,
    Turn,
    bundled_texts,
    calibrate,
    passages,
    sequences,
)
from edgellm.convert.interrupted import Calibration, State, load_state, save_state
from edgellm.convert.pipeline import FilePlan, Tensor
from edgellm.convert.receipt import source_weights
from edgellm.convert.recipes import is_quantized
from edgellm.errors import FileError, TemplateError, UnsupportedError, UsageError, size_text
from edgellm.families.registry import build
from edgellm.gguf.types import GGMLType
from edgellm.program import Program
from edgellm.quant.native import n_bytes
from edgellm.system.files import Folder
from edgellm.tokenizer import Tokenizer

Say = Callable[[str], None]

_SENSITIVITIES = "sensitivities.json"
_FORMATS = "formats.json"
# Tokens that sensitivities are measured with: the last sequence of so many.
MEASURED_TOKENS = 1024
# Weights of a large model. So that it takes no more than 15 minutes per billion on two cores, it reads three
# quarters of the text, and half of that sequence, which is enough: docs/benchmarks.md.
LARGE = 1_000_000_000
# Time between two lines of progress, in seconds.
_EVERY = 15.0


def weigh_quickly(plan: FilePlan, threads: int, say: Say) -> None:
    """Give the tensors of a plan importances from the first tokens of the bundled text.

    Nothing for a model whose program is not known.
    """
    metadata = plan_metadata(plan)
    try:
        program = plan_program(plan)
    except UnsupportedError as error:
        say(f"all columns of weights count the same: {error}")
        return
    texts = read_texts(metadata, None, QUICK_TOKENS, program.n_ctx_train)
    found = calibrate(program, source_weights(plan), texts, threads=threads)
    _apply(plan, found)


def calibrate_fully(
    plan: FilePlan, text: Path | None, folder: Path, identity: str, threads: int, say: Say
) -> None:
    """Give the tensors of a plan importances and second moments, which are kept in `folder`.

    text: the user's own; None: the bundled one alone. identity: of the work; what an interrupted one of the
    same, with the same text, has left in the folder is used.
    """
    program = plan_program(plan)
    n_tokens = FULL_TOKENS * 3 // 4 if _is_large(program) else FULL_TOKENS
    texts = read_texts(plan_metadata(plan), text, n_tokens, program.n_ctx_train)
    identity += hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    begun = load_state(folder, identity)
    n_ops = len(program.ops)
    if begun is None or begun.n_done < n_ops:
        try:
            if begun is None:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                _check_room(program, folder, sum(map(len, texts)))
            found = calibrate(
                program,
                source_weights(plan),
                texts,
                threads=threads,
                moments=folder,
                begun=begun,
                keep=partial(save_state, folder, identity),
                progress=Report(say, f"calibrating with {sum(map(len, texts))} tokens"),
            )
            begun = State(n_ops, [], found)
            save_state(folder, identity, begun)
        except OSError as error:
            raise FileError(
                f"{folder}: cannot be written ({error.strerror}); it holds the statistics of a calibration, "
                "free space or choose another output folder"
            ) from None
        except KeyboardInterrupt:
            if load_state(folder, identity) is None:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                say("What is read is kept; the same command goes on there.")
            raise
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    _apply(plan, begun.found)


def check_budget(plan: FilePlan, budget: int, pace: Pace | None) -> None:
    """Raise UsageError if the matrices of a plan fit no budget of bytes of all tensors, or are too slow."""
    free = _free(plan)
    if pace is not None:
        fastest = sum(min(pace.of(tensor, kind) for kind in candidates(tensor.shape[-1])) for tensor in free)
        if fastest > _time(plan, free, pace):
            raise UsageError(
                "the fastest formats of this model are expected to miss --min-speed on this machine; ask for "
                "a lower speed, or choose a smaller model (`edgellm fit` predicts speeds)"
            )
    room = _room(plan, free, budget)
    least = sum(min(n_bytes(kind, tensor.shape) for kind in candidates(tensor.shape[-1])) for tensor in free)
    if least > room:
        raise UsageError(
            f"{size_text(room)} are left for the matrices, and their smallest formats take "
            f"{size_text(least)}; ask for a larger file"
        )


def choose_formats(
    plan: FilePlan, budget: int, folder: Path, threads: int, say: Say, pace: Pace | None = None
) -> None:
    """Give the matrices of a calibrated plan the formats of least divergence.

    budget: bytes of all tensors. folder: of the calibration, where the choice is kept, too. pace: what the
    formats must keep up with.
    """
    kept = folder / _FORMATS
    if kept.exists():
        chosen = {name: GGMLType[kind] for name, kind in json.loads(kept.read_text()).items()}
    else:
        free = _free(plan)
        sensitivity = measure_sensitivities(plan, free, folder, threads, say)
        choices = options(free, sensitivity, threads, pace, Report(say, "estimating errors of formats"))
        time = math.inf if pace is None else _time(plan, free, pace)
        found = allocate(choices, _room(plan, free, budget), time)
        if sum(option.seconds for option in found.values()) > time:
            raise UsageError(
                "no formats of that size are expected to keep up with --min-speed on this machine; ask for "
                "a lower speed or for another size"
            )
        chosen = {name: option.kind for name, option in found.items()}
        say_formats([kind.name for kind in chosen.values()], say)
        _keep(kept, {name: kind.name for name, kind in chosen.items()})
    plan.tensors = [replace(tensor, type=chosen.get(tensor.name, tensor.type)) for tensor in plan.tensors]


def _free(plan: FilePlan) -> list[Tensor]:
    """The matrices that formats are chosen for."""
    return [
        tensor
        for tensor in plan.tensors
        if is_quantized(tensor.name, tensor.shape) and candidates(tensor.shape[-1]) and not tensor.asked
    ]


def _room(plan: FilePlan, free: Sequence[Tensor], budget: int) -> int:
    """Rest of a budget that the others leave."""
    return budget - plan.n_bytes + sum(tensor.n_bytes for tensor in free)


def _time(plan: FilePlan, free: Sequence[Tensor], pace: Pace) -> float:
    """Seconds of a pace that the others leave."""
    names = {tensor.name for tensor in free}
    return pace.seconds - sum(
        pace.of(tensor, tensor.type) for tensor in plan.tensors if tensor.name not in names
    )


def measure_sensitivities(
    plan: FilePlan, free: Sequence[Tensor], folder: Path, threads: int, say: Say
) -> dict[str, float]:
    """Sensitivities of matrices of a calibrated plan; the calibration's folder keeps them, too."""
    program = plan_program(plan)
    text = read_texts(plan_metadata(plan), None, MEASURED_TOKENS, program.n_ctx_train)[-1]
    if _is_large(program):
        text = text[: max(1, len(text) // 2)]
    kept = folder / _SENSITIVITIES
    known = json.loads(kept.read_text()) if kept.exists() else {}
    report = Report(say, "measuring sensitivities")

    def progress(done: int, total: int) -> None:
        _keep(kept, known)
        report(done, total)

    return sensitivities(
        program, source_weights(plan), free, [text], threads=threads, known=known, progress=progress
    )


def _is_large(program: Program) -> bool:
    return sum(map(prod, program.weights.values())) >= LARGE


def say_formats(names: Sequence[str], say: Say) -> None:
    """Say how many matrices have each format, by its name."""
    kinds = ", ".join(f"{count} {name}" for name, count in Counter(names).most_common())
    say(f"formats: {kinds}")


def plan_metadata(plan: FilePlan) -> dict[str, Any]:
    """The metadata of a plan as plain values."""
    return {key: pair.value for key, pair in plan.metadata.items()}


def plan_program(plan: FilePlan) -> Program:
    """The program of the file that a plan writes; raises as `build`."""
    return build(plan_metadata(plan), {tensor.name: tensor.shape for tensor in plan.tensors})


def read_texts(metadata: Mapping[str, Any], text: Path | None, n_tokens: int, n_ctx: int) -> list[list[int]]:
    """Token sequences of the bundled text, and of the user's in turn with it; UsageError if it is none."""
    tokenizer = Tokenizer.from_metadata(metadata)
    texts: list[str | list[Turn]] = bundled_texts()
    if text is not None:
        own = passages(_read(text), n_tokens)
        if not own:
            raise UsageError(f"{text}: holds no text, expected some to calibrate with; choose another file")
        count = max(len(own), len(texts))
        mixed: list[str | list[Turn]] = []
        for i in range(count):
            mixed += [own[i]] if i < len(own) else []
            mixed += [texts[i]] if i < len(texts) else []
        texts = mixed
    return sequences(texts, tokenizer, n_tokens, n_ctx, _renderer(metadata, tokenizer))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as UTF-8 text ({error}); choose another file") from None


def _renderer(metadata: Mapping[str, Any], tokenizer: Tokenizer) -> Render | None:
    """Conversations in the model's own form; None for a model without a chat template."""
    if "tokenizer.chat_template" not in metadata:
        return None
    template = ChatTemplate.from_metadata(metadata, tokenizer)

    def render(turns: list[Turn]) -> list[int] | None:
        try:
            return template.encode(turns, add_generation_prompt=False)
        except TemplateError:
            return None  # no system message, or no plain turns

    return render


def _apply(plan: FilePlan, found: Calibration) -> None:
    importance = found.statistics.importance()
    plan.tensors = [
        replace(tensor, importance=importance.get(tensor.name), moments=found.moments.get(tensor.name))
        for tensor in plan.tensors
    ]


def _check_room(program: Program, folder: Path, n_tokens: int) -> None:
    """Raise FileError if the folder's disk has no room for the moments and a state."""
    shapes = program.weights
    inputs = {op.ins[0]: shapes[op.weights["weight"]][-1] for op in program.ops if op.kind == "linear"}
    needed = sum(4 * n * n for n in inputs.values()) + 8 * n_tokens * program.width
    for op in program.ops:
        if op.kind == "moe":
            # Width and feed-forward width of every row that an expert multiplies.
            needed += (
                4 * n_tokens * int(op.attrs["n_used"]) * (program.width + shapes[op.weights["down"]][-1])
            )
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise FileError(
            f"{folder}: calibration needs {size_text(needed)} there for a while, {size_text(free)} are "
            "free; free some, or write to another disk"
        )


def _keep(path: Path, content: object) -> None:
    """Write a file of the calibration's folder; a run that is killed leaves the earlier one."""
    with Folder(path.parent) as folder:
        folder.write(path.name, json.dumps(content).encode(), mode=0o666)


class Report:
    """Says the share done and the time left every 15 seconds."""

    def __init__(self, say: Say, label: str) -> None:
        self._say = say
        self._label = label
        self._begun = self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said < _EVERY or not done:
            return
        self._said = now
        left = (now - self._begun) * (total - done) / done
        self._say(f"{self._label}: {100 * done // total} %, {left / 60:.1f} minutes left")
