"""`--min-speed`: the time that a model's matrices may take here for a token of an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edgellm.benchmark.prediction import ANSWER_TOKENS, answer_seconds
from edgellm.benchmark.probe import RateBook
from edgellm.benchmark.work import count_work, read_shares
from edgellm.convert.allocation import Pace, candidates
from edgellm.errors import UsageError
from edgellm.gguf.types import GGMLType
from edgellm.program import Program


def pace_of(
    min_speed: float, threads: int, book: RateBook
) -> Callable[[Program, Mapping[str, GGMLType]], Pace]:
    """The pace of a program for `min_speed` tokens a second, by this machine's rates of formats."""
    if not min_speed > 0:
        raise UsageError(f"--min-speed is {min_speed:g}, expected tokens a second above 0")

    def find(program: Program, kinds: Mapping[str, GGMLType]) -> Pace:
        shares = read_shares(program)
        wanted = {kind for name in shares for kind in candidates(program.weights[name][-1])}
        wanted |= {kinds[name] for name in shares}
        rates = book.rates({kind.name for kind in wanted}, threads=threads)
        nothing = dict.fromkeys(program.weights, 0)
        work = count_work(program, nothing, rates.kv_type, {name: kinds[name].name for name in nothing})
        rest = answer_seconds(work, rates, ANSWER_TOKENS // 2)
        byte_s = {kind: rates.formats[kind.name].byte_s for kind in wanted}
        return Pace(1 / min_speed - rest, byte_s, shares)

    return find
