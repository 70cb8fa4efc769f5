"""A model loaded from a file, on the interpreter: logits, text, chat, embeddings, perplexity, refusals."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import edgellm
from edgellm import ContextOverflowError, GenerateOptions, MemoryLimitError, Model, UsageError
from edgellm.errors import FileChangedError
from edgellm.gguf.mapping import MappedFile, Stamp
from tests.support.references import official_gguf, reference, unpacked
from tests.support.tiny_model import WIDTH, tiny_builder, write_tiny_model

__all__ = ["unpacked"]

GREEDY = GenerateOptions(temperature=0.0, max_tokens=6, ignore_eos=True)


@pytest.fixture(scope="module")
def path(unpacked: Path) -> Path:
    return official_gguf("llama", unpacked)


@pytest.fixture(scope="module")
def model(path: Path) -> Iterator[Model]:
    with edgellm.load(path, backend="interpreter", batch=16, context=256) as loaded:
        yield loaded


def test_logits_of_every_position_are_the_reference(model: Model) -> None:
    expected = reference("llama")
    logits = model.logits(expected.token_ids.tolist())
    assert logits.dtype == np.float32
    expected.check(logits)


def test_greedy_text_follows_the_logits(model: Model) -> None:
    ids = reference("llama").token_ids.tolist()
    generation = model.generate(ids, GREEDY)
    text = "".join(generation)
    for _ in range(6):
        ids.append(int(model.logits(ids)[-1].argmax()))
    assert generation.ids == ids[-6:]
    assert text == model.detokenize(ids[-6:], skip_special=True)


def test_a_seed_repeats_an_answer_and_another_changes_it(model: Model) -> None:
    def answer(seed: int) -> list[int]:
        options = GenerateOptions(
            temperature=5.0, top_k=0, top_p=1.0, min_p=0.0, seed=seed, max_tokens=12, ignore_eos=True
        )
        generation = model.generate("once upon", options)
        list(generation)
        return generation.ids

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


@pytest.mark.parametrize("backend", ["interpreter", "native"])
def test_rows_without_tokens_change_no_answer(backend: str, tmp_path: Path) -> None:
    plain, padded = tiny_builder(), tiny_builder()
    embeddings = padded.tensors[0]
    rows = np.frombuffer(embeddings.raw, "<f4").reshape(-1, WIDTH)
    embeddings.raw = np.concatenate([rows, 30 * rows[:32], -30 * rows[:32]]).tobytes()
    embeddings.dims = (WIDTH, len(rows) + 64)
    texts = []
    for builder in (plain, padded):
        with edgellm.load(builder.write(tmp_path / "model.gguf"), backend=backend, threads=1) as model:
            ids = model.tokenize("once upon")
            texts.append("".join(model.generate(ids, GREEDY)))
            largest = int(model.logits(ids)[-1].argmax())
        (tmp_path / "model.gguf").unlink()
    assert largest >= len(rows)
    assert texts[0] == texts[1]


def test_perplexity_is_that_of_the_logits(model: Model) -> None:
    ids = reference("llama").token_ids
    logits = model.logits(ids.tolist()).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = np.exp(-logprobs[np.arange(len(ids) - 1), ids[1:]].mean())
    assert model.perplexity(ids.tolist()) == pytest.approx(expected, rel=1e-5)


def test_perplexity_of_a_long_text_is_the_mean_over_windows(model: Model) -> None:
    ids = np.tile(reference("llama").token_ids, 5)[: 256 + 40].tolist()
    first, second = np.log(model.perplexity(ids[:256])), np.log(model.perplexity(ids[256:]))
    expected = np.exp((first * 255 + second * 39) / (255 + 39))
    assert model.perplexity(ids) == pytest.approx(expected, rel=1e-6)


def test_embeddings_have_length_one(model: Model) -> None:
    vectors = model.embed(["a cat", "a dog", "a cat"])
    assert vectors.shape == (3, model.program.width)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert np.array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])


def test_chat_goes_through_the_template(path: Path, model: Model) -> None:
    messages = [{"role": "user", "content": "hello"}]
    generation = model.chat(messages, GREEDY)
    assert generation.prompt_ids == model.template.encode(messages)
    list(generation)
    assert generation.finish_reason == "length"


def test_text_beyond_the_context_is_refused_with_numbers(model: Model) -> None:
    too_long = [1] * 300
    with pytest.raises(ContextOverflowError, match=r"300 tokens.*256"):
        model.generate(too_long)
    with pytest.raises(ContextOverflowError, match=r"300 tokens.*256"):
        model.logits(too_long)
    with pytest.raises(ContextOverflowError, match=r"300 tokens.*256"):
        model.embed_ids([too_long])


@pytest.mark.parametrize("ids", [[], [-1], [10**6], [[1]]])
def test_ids_outside_the_vocabulary_are_refused(model: Model, ids: list[int]) -> None:
    with pytest.raises(UsageError):
        model.logits(ids)


def test_memory_that_is_not_there_is_refused_with_numbers(path: Path) -> None:
    with pytest.raises(MemoryLimitError, match=r"needs .* [kM]B \(weights .* [kM]B are allowed"):
        edgellm.load(path, backend="interpreter", max_memory=1000)


def test_a_context_beyond_the_trained_one_is_refused(path: Path) -> None:
    with pytest.raises(UsageError, match="1000000"):
        edgellm.load(path, backend="interpreter", context=1000000)


def test_context_zero_is_the_trained_one(path: Path) -> None:
    with edgellm.load(path, backend="interpreter", context=0) as model:
        assert model.n_ctx == model.program.n_ctx_train


@pytest.mark.parametrize(
    "options", [{"threads": 0}, {"batch": 0}, {"context": -1}, {"cache_tokens": True}, {"backend": "cuda"}]
)
def test_options_out_of_range_are_refused_by_name(path: Path, options: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        edgellm.load(path, **options)  # type: ignore[arg-type]


def test_the_vocabulary_alone_tokenizes_and_nothing_else(path: Path) -> None:
    with edgellm.load(path, vocab_only=True) as model:
        ids = model.tokenize("once upon a time")
        assert model.detokenize(ids) == "once upon a time"
        assert model.tokenize("once upon a time", add_special=True)[-len(ids) :] == ids
        with pytest.raises(UsageError, match="outside the vocabulary"):
            model.detokenize([model.n_vocab])
        with pytest.raises(UsageError, match="vocabulary alone"):
            model.generate("x")


def test_special_tokens_in_a_text_are_plain_unless_asked_for(path: Path) -> None:
    with edgellm.load(path, vocab_only=True) as model:
        eos = model.tokenizer.eos_id
        assert eos is not None
        text = model.tokenizer.token_text(eos)
        assert eos not in model.tokenize(text)
        assert model.tokenize(text, parse_special=True) == [eos]


def test_a_file_is_looked_at_once_for_each_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf")
    looks: list[Path] = []
    look = MappedFile._now

    def counted(file: MappedFile) -> Stamp | None:
        looks.append(file.path)
        return look(file)

    with edgellm.load(path, threads=1) as model:
        monkeypatch.setattr(MappedFile, "_now", counted)
        before = "".join(model.generate("hello", GREEDY))
        assert looks == [path]
        content = path.read_bytes()
        path.write_bytes(bytes(len(content)))
        os.utime(path, ns=(0, 0))
        asks: list[Callable[[], object]] = [
            lambda: model.generate("hello", GREEDY),
            lambda: model.logits([1, 2]),
            lambda: model.token_logprobs([1, 2], 0),
            lambda: model.perplexity([1, 2]),
            lambda: model.embed_ids([[1, 2]]),
        ]
        for ask in asks:
            with pytest.raises(FileChangedError, match="overwritten"):
                ask()
    path.write_bytes(content)
    with edgellm.load(path, threads=1) as model:
        assert "".join(model.generate("hello", GREEDY)) == before


def test_a_closed_model_says_so(path: Path) -> None:
    model = edgellm.load(path, backend="interpreter")
    generation = model.generate("x", GREEDY)
    next(generation)
    model.close()
    list(generation)
    assert generation.finish_reason == "cancelled"
    with pytest.raises(UsageError, match="closed"):
        model.logits([1])
