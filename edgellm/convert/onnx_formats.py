"""Formats of an ONNX folder's matrices for a number of bytes: as allocation.py, with those of MatMulNBits."""

from __future__ import annotations

from math import prod
from pathlib import Path

from edgellm.convert.allocation import Floats, Formats, allocate
from edgellm.convert.allocation import options as format_options
from edgellm.convert.calibrating import Report, Say, measure_sensitivities, say_formats
from edgellm.convert.onnx_folder import FolderPlan, plan_folder
from edgellm.convert.pipeline import Tensor, header_bytes
from edgellm.convert.writing import RECEIPT_BYTES, WriteOptions
from edgellm.errors import UsageError, size_text
from edgellm.program import to_text
from edgellm.quant.feedback import Feedback
from edgellm.quant.nbits import BLOCK, KINDS, Kind, decode, encode

# Plans until the bytes of the graph, which grow with the formats, fit as well.
_PLANS = 4


def check_size(planned: FolderPlan, options: WriteOptions) -> None:
    """Raise UsageError if the smallest formats do not fit."""
    free = _free(planned)
    least = sum(min(kind.n_bytes(tensor.shape) for kind in KINDS.values()) for tensor in free)
    room = _room(planned, options)
    if least > room:
        raise UsageError(
            f"{size_text(max(room, 0))} are left for the matrices, and their smallest formats take "
            f"{size_text(least)}; ask for a larger folder"
        )


def choose_formats(planned: FolderPlan, options: WriteOptions, folder: Path, say: Say) -> FolderPlan:
    """The plan with the formats of least divergence, of a calibrated source.

    folder: of the calibration, where sensitivities are kept, too.
    """
    free, threads = _free(planned), options.threads
    sensitivity = measure_sensitivities(planned.source, free, folder, threads, say)
    report = Report(say, "estimating errors of formats")
    choices = format_options(free, sensitivity, threads, progress=report, formats=_FORMATS)
    room = _room(planned, options)
    for _ in range(_PLANS):
        chosen = {name: option.kind for name, option in allocate(choices, room).items()}
        trial = plan_folder(planned.source, planned.type, chosen)
        more = _excess(trial, planned, options)
        if more <= 0:
            break
        room -= more
    say_formats([kind.name for kind in chosen.values()], say)
    return trial


def _free(planned: FolderPlan) -> list[Tensor]:
    """The matrices that formats are chosen for."""
    names = {weight.name for weight in planned.graph.weights if weight.kind is not None}
    return [tensor for tensor in planned.source.tensors if tensor.name in names]


def _room(planned: FolderPlan, options: WriteOptions) -> int:
    """Bytes for the matrices, where all else stays as it is planned."""
    matrices = sum(weight.n_bytes for weight in planned.graph.weights if weight.kind is not None)
    return matrices - _excess(planned, planned, options)


def _excess(trial: FolderPlan, planned: FolderPlan, options: WriteOptions) -> int:
    """Bytes by which a plan is larger than asked for, or else than `planned`."""
    if options.size is not None:
        # The tokenizer's files in other forms do not count.
        program = len(to_text(trial.program)) + sum(len(w.name) + 24 for w in trial.graph.weights)
        graph = len(trial.graph.model.SerializeToString())
        receipt = RECEIPT_BYTES if options.receipt else 0
        beside = graph + header_bytes(trial.source) + program + receipt
        return trial.n_bytes + beside - options.size
    if options.bpw is not None:
        n_weights = sum(prod(tensor.shape) for tensor in trial.source.tensors)
        return trial.n_bytes - int(options.bpw * n_weights / 8)
    return trial.n_bytes - planned.n_bytes


def _rounded(
    kind: Kind, values: Floats, importance: Floats | None, feedback: Feedback | None, threads: int
) -> Floats:
    return decode(kind, encode(kind, values, importance, feedback, threads=threads))


_FORMATS = Formats(
    lambda _: tuple(KINDS.values()), lambda kind, shape: kind.n_bytes(shape), lambda _: BLOCK, _rounded
)
