"""`edgellm tune`: the fastest settings of a model on this device, kept for later runs."""

from __future__ import annotations

import sys
from pathlib import Path

from edgellm.commands.loading import find_model
from edgellm.commands.options import OFFLINE, SWITCH, Command, Option, Positional
from edgellm.commands.profiles import Profile, keep_profile, profile_of
from edgellm.commands.settings import Settings
from edgellm.errors import FileError


def run(settings: Settings) -> int:
    """Try settings on the model, keep those that are faster than the defaults, and say so."""
    path = find_model(settings["name"], settings)
    if settings["forget"]:
        known = profile_of(path)
        _keep(path, None)
        print(
            f"{path.name}: {'no settings were kept' if known is None else 'the kept settings are forgotten'}"
        )
        return 0
    from edgellm.benchmark.tuning import Bench, candidates, tune

    bench = Bench(path)
    try:
        tuned = tune(candidates(), bench.measure, _say)
    finally:
        bench.close()
    best = tuned.best
    if tuned.gain <= 0:
        _keep(path, None)
        print(
            f"{path.name}: the defaults are the fastest: {tuned.default.answer:.1f} tokens a second, prompts "
            f"{tuned.default.prompt:.0f}"
        )
        return 0
    profile = Profile(best.threads, best.isa, best.cpus, tuned.gain)
    _keep(path, profile)
    print(
        f"{path.name}: {profile.words()}: answers {tuned.speed.answer:.1f} instead of "
        f"{tuned.default.answer:.1f} tokens a second, prompts {tuned.speed.prompt:.0f} instead of "
        f"{tuned.default.prompt:.0f}; chat, run and serve use these settings from now on"
    )
    return 0


def _keep(path: Path, profile: Profile | None) -> None:
    try:
        keep_profile(path, profile)
    except OSError as error:
        raise FileError(
            f"{error.filename}: cannot be written: {error.strerror}; choose another folder with EDGELLM_HOME"
        ) from None


def _say(sentence: str) -> None:
    print(f"edgellm: {sentence}", file=sys.stderr)


COMMAND = Command(
    summary="Find the fastest settings for a model on this device.",
    run=run,
    description="Tries numbers of threads, sets of cores and instruction sets on a model, for about a\n"
    "minute, and keeps those whose answers are faster than the defaults' by 3 % or more, and their\n"
    "prompts not slower. chat, run and serve use them from then on, and say so, unless -t or --isa is\n"
    "given. Stop other programs before: they decide the outcome otherwise.",
    positionals=(Positional("name", "a model: path, name, or user/repo:QUANT"),),
    options=(
        Option("forget", ("--forget",), "forget what was found for this model", SWITCH, default=False),
        OFFLINE,
    ),
    examples=(
        ("edgellm tune model.gguf", "a minute of measurements"),
        ("edgellm tune model.gguf --forget", "the defaults again"),
    ),
)
