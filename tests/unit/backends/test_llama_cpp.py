"""llama.cpp behind the scheduler: its own tokens, forks and truncations without an effect, errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgellm
from edgellm import GenerateOptions, Model
from edgellm.errors import BackendError
from tests.support.paths import real_model
from tests.support.references import official_gguf, reference, unpacked

llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")

__all__ = ["unpacked"]

GREEDY = GenerateOptions(temperature=0.0, max_tokens=12, ignore_eos=True, repeat_penalty=1.0)


def load(name: str, folder: Path, *, cache_tokens: int | None = None) -> Model:
    path = official_gguf(name, folder)
    return edgellm.load(
        path, backend="llama_cpp", context=128, cache_tokens=cache_tokens, threads=1, batch=16
    )


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "mamba2"])
def test_logits_match_the_reference(name: str, unpacked: Path) -> None:
    expected = reference(name)
    with load(name, unpacked) as model:
        expected.check(model.logits(expected.token_ids.tolist()), 0.05)


@pytest.mark.parametrize("name", ["llama", "gemma3", "mamba2"])
def test_tokens_do_not_depend_on_mates_or_room(name: str, unpacked: Path) -> None:
    ids = reference(name).token_ids.tolist()
    prompts = [ids[:40], [*ids[:40], *ids[:20]], ids[:70], ids[:40]]
    with load(name, unpacked, cache_tokens=1024) as model:
        expected = []
        for prompt in prompts:
            generation = model.generate(prompt, GREEDY)
            list(generation)
            expected.append(generation.ids)
    for cache_tokens in (128, 1024):
        with load(name, unpacked, cache_tokens=cache_tokens) as model:
            generations = [model.generate(prompt, GREEDY) for prompt in prompts]
            for generation in generations:
                list(generation)
            assert [generation.ids for generation in generations] == expected
            backend = model.backend
            model.scheduler.stop()
            assert backend.free_blocks == backend.n_blocks


def test_hidden_rows_are_those_of_the_native_engine(unpacked: Path) -> None:
    ids = reference("llama").token_ids[:40].tolist()
    with load("llama", unpacked) as model, edgellm.load(model.path, context=128, threads=1) as native:
        np.testing.assert_allclose(model.backend.hidden(ids), native.backend.hidden(ids), atol=0.02)


def test_what_is_refused_changes_nothing(unpacked: Path) -> None:
    with load("llama", unpacked) as model:
        backend = model.backend
        sequence = backend.open_sequence()
        with pytest.raises(BackendError, match="vocabulary"):
            backend.step([backend.n_vocab], [sequence], [True])
        with pytest.raises(BackendError, match="no open sequence"):
            backend.step([1], [sequence + 1], [True])
        with pytest.raises(BackendError, match="expected 5 or more"):
            backend.fork_sequence(sequence, 5)
        assert backend.sequence_length(sequence) == 0
        backend.close_sequence(sequence)
        assert backend.free_blocks == backend.n_blocks


def test_greedy_tokens_are_those_of_the_library_itself() -> None:
    path = real_model("smollm2.gguf")
    with edgellm.load(path, backend="llama_cpp", context=256, threads=1) as model:
        prompt = model.tokenize("The capital of France is")
        generation = model.generate(prompt, GREEDY)
        list(generation)
    library = llama_cpp.Llama(str(path), n_ctx=256, n_threads=1, verbose=False)
    answer = []
    for token in library.generate(prompt, temp=0.0, repeat_penalty=1.0):
        answer.append(token)
        if len(answer) == len(generation.ids):
            break
    library.close()
    assert generation.ids == answer
