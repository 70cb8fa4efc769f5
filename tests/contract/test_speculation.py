"""Speculative decoding on the native engine: every family's answers equal those without it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgellm
from edgellm import GenerateOptions, Model
from edgellm.engine.scheduler import Scheduler
from edgellm.engine.session import Generation, make_request
from tests.support.references import official_gguf, unpacked

__all__ = ["unpacked"]

# Attention; attention windows; experts; a recurrent state.
FAMILIES = ("llama", "gemma3", "qwen3_moe", "mamba2")
GREEDY = GenerateOptions(temperature=0.0, max_tokens=90, ignore_eos=True)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, unpacked: Path) -> Iterator[Model]:
    with edgellm.load(official_gguf(request.param, unpacked), context=256, threads=2) as loaded:
        yield loaded


def scheduler_of(model: Model, draft_max: int) -> Scheduler:
    """A scheduler with equal costs of all steps, so that drafts do not depend on timing."""
    return Scheduler(
        model.backend,
        model.tokenizer.eog_ids,
        max_cached=0,
        draft_max=draft_max,
        clock=functools.partial(next, itertools.count()),
    )


def begin(model: Model, scheduler: Scheduler, prompt: list[int], options: GenerateOptions) -> Generation:
    matcher = model.matcher(options)
    return Generation(
        scheduler,
        lambda on_event: make_request(
            prompt,
            options,
            n_vocab=model.backend.n_vocab,
            decoder=model.tokenizer.stream(),
            on_event=on_event,
            matcher=matcher,
            defaults=model.sampling_defaults,
        ),
    )


@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        GenerateOptions(temperature=1.0, seed=3, max_tokens=60, ignore_eos=True, top_k=2),
        GenerateOptions(temperature=0.0, max_tokens=60, regex="(ab ?|cd ?){30}", logprobs=2),
    ],
    ids=["greedy", "seeded", "grammar"],
)
def test_answers_are_those_without_guesses(model: Model, options: GenerateOptions) -> None:
    # Greedy answers of a small random model repeat themselves, and so does this text.
    prompt = (model.tokenize("ab cd ab cd ef ") * 8)[:100]
    found = []
    for draft_max in (0, 7):
        scheduler = scheduler_of(model, draft_max)
        together = [begin(model, scheduler, prompt[n:], options) for n in range(3)]
        for generation in together:
            list(generation)
        found.append(
            [(g.ids, g.text, g.finish_reason, [(s.id, s.top) for s in g.logprobs]) for g in together]
        )
        stats = [g.stats for g in together if g.stats is not None]
        assert len(stats) == 3
        n_drafted = sum(s.n_drafted for s in stats)
        assert (n_drafted > 0) == (draft_max > 0 and not model.backend.recurrent)
    assert found[0] == found[1]
    assert model.backend.free_blocks == model.backend.n_blocks


def test_a_long_answer_stays_the_same_once_the_window_has_passed(unpacked: Path) -> None:
    # The window keeps 256 tokens more than it needs; beyond them blocks are given back.
    with edgellm.load(official_gguf("gemma3", unpacked), context=0, threads=2) as model:
        window = max(cache.window for cache in model.program.caches)
        assert 0 < window < model.n_ctx - 300
        options = GenerateOptions(temperature=0.0, max_tokens=model.n_ctx - 20, ignore_eos=True)
        prompt = model.tokenize("one two three four ")[:10]
        answers = []
        for draft_max in (0, 7):
            generation = begin(model, scheduler_of(model, draft_max), prompt, options)
            list(generation)
            answers.append(generation.ids)
        assert answers[0] == answers[1]
        assert generation.stats is not None
        assert generation.stats.n_accepted > 0
