"""Native engine behind the scheduler: shared prefixes, small caches and other requests change no token."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgellm
from edgellm import GenerateOptions, Model
from edgellm.backends.native import NativeBackend
from edgellm.errors import BackendError
from tests.support.references import official_gguf, reference, unpacked

__all__ = ["unpacked"]

# Attention alone; attention windows; convolutions with a state; a recurrent state.
NAMES = ("llama", "gemma3", "lfm2", "mamba2")


def load(name: str, folder: Path, *, context: int = 128, cache_tokens: int | None = None) -> Model:
    return edgellm.load(
        official_gguf(name, folder), context=context, cache_tokens=cache_tokens, threads=2, batch=16
    )


def options(n: int) -> GenerateOptions:
    return GenerateOptions(
        temperature=float(n % 2), seed=n, max_tokens=10 + n, ignore_eos=True, top_k=0, top_p=1.0, min_p=0.0
    )


def answers(model: Model, prompts: list[list[int]]) -> list[list[int]]:
    """Tokens of all answers, generated together."""
    generations = [model.generate(prompt, options(n)) for n, prompt in enumerate(prompts)]
    for generation in generations:
        list(generation)
    return [generation.ids for generation in generations]


@pytest.mark.parametrize("name", NAMES)
def test_tokens_do_not_depend_on_mates_caches_or_room(name: str, unpacked: Path) -> None:
    ids = reference(name).token_ids.tolist()
    prompts = [ids[:40], [*ids[:40], *ids[:20]], ids[:70], ids[5:25], ids[:40], [*ids[:60], 7]]
    expected = []
    for n, prompt in enumerate(prompts):
        with load(name, unpacked) as model:
            generation = model.generate(prompt, options(n))
            list(generation)
            expected.append(generation.ids)
    for cache_tokens in (128, 192, 1024):
        with load(name, unpacked, cache_tokens=cache_tokens) as model:
            assert answers(model, prompts) == expected
            assert answers(model, prompts) == expected  # from the cache, where it has them
            backend = model.backend
            model.scheduler.stop()
            assert backend.free_blocks == backend.n_blocks


@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_goes_on_from_the_cache(name: str, unpacked: Path) -> None:
    history = reference(name).token_ids.tolist()[:30]
    with load(name, unpacked, context=256) as model:
        for turn in range(3):
            generation = model.generate(history, options(turn))
            list(generation)
            assert generation.stats is not None
            if turn:
                assert generation.stats.n_cached == len(history) - 4
            history = [*history, *generation.ids, 3, 4, 5]


def test_what_the_engine_refuses_is_an_error_with_a_sentence(unpacked: Path) -> None:
    with load("llama", unpacked) as model:
        backend = model.backend
        assert isinstance(backend, NativeBackend)
        sequence = backend.open_sequence()
        with pytest.raises(BackendError, match="vocabulary"):
            backend.step([backend.n_vocab], [sequence], [True])
        with pytest.raises(BackendError, match="not open"):
            backend.step([1], [sequence + 1], [True])
        n = backend.batch + 1
        with pytest.raises(BackendError, match="batch"):
            backend.step([0] * n, [sequence] * n, [False] * n)
        with pytest.raises(BackendError, match="held"):
            backend.fork_sequence(sequence, 5)
        with pytest.raises(BackendError, match="held"):
            backend.truncate_sequence(sequence, 5)
        assert backend.sequence_length(sequence) == 0
        backend.close_sequence(sequence)
        with pytest.raises(BackendError):
            backend.close_sequence(sequence)


def test_memory_is_counted_before_loading(unpacked: Path) -> None:
    with load("lfm2", unpacked) as model:
        assert {"weights", "cache", "scratch", "states"} <= set(model.memory)
        assert all(size > 0 for size in model.memory.values())
