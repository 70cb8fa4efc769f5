"""Loading a draft model: models that can be one, its memory, and answers that do not depend on it."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgellm
from edgellm import GenerateOptions, MemoryLimitError, UsageError
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.loading import memory_needed
from edgellm.engine.scheduler import Scheduler
from edgellm.gguf.reader import GGUFFile
from tests.support.references import official_gguf, unpacked
from tests.support.tiny_model import write_tiny_model
from tests.support.vocabularies import small_bpe

__all__ = ["unpacked"]

OPTIONS = [
    GenerateOptions(temperature=0.0, max_tokens=40, ignore_eos=True),
    GenerateOptions(temperature=1.0, seed=4, max_tokens=40, ignore_eos=True, logprobs=2),
    GenerateOptions(temperature=0.0, max_tokens=40, regex="(ab|cd| ){30}"),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("main") / "tiny.gguf")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same vocabulary, a shorter context, other answers."""
    changes = {"llama.rope.freq_base": 50.0, "llama.context_length": 64}
    return write_tiny_model(tmp_path_factory.mktemp("draft") / "other.gguf", **changes)


@pytest.mark.parametrize("same", [True, False], ids=["itself", "another"])
def test_answers_are_those_without_a_draft_model(tiny: Path, other: Path, same: bool) -> None:
    draft = tiny if same else other
    with edgellm.load(tiny, draft_max=0) as model:
        expected = []
        for options in OPTIONS:
            generation = model.generate("once upon a time", options)
            expected.append(("".join(generation), generation.ids, generation.logprobs))
    with edgellm.load(tiny, draft=draft) as model:
        assert model.memory["draft"] > 0
        assert model.notes == []
        found, n_drafted = [], 0
        for options in OPTIONS:
            generation = model.generate("once upon a time", options)
            found.append(("".join(generation), generation.ids, generation.logprobs))
            assert generation.stats is not None
            n_drafted += generation.stats.n_drafted
    assert n_drafted > 0
    assert [f[:2] for f in found] == [e[:2] for e in expected]
    assert [[s.top for s in f[2]] for f in found] == [[s.top for s in e[2]] for e in expected]


def test_another_vocabulary_is_refused_by_its_first_difference(tiny: Path, tmp_path: Path) -> None:
    tokens = list(small_bpe()["tokenizer.ggml.tokens"])  # type: ignore[call-overload]
    tokens[5] = "five"
    wrong = write_tiny_model(tmp_path / "wrong.gguf", **{"tokenizer.ggml.tokens": tokens})
    with pytest.raises(UsageError, match=r"wrong\.gguf cannot be the draft model.*its token 5 is 'five'"):
        edgellm.load(tiny, draft=wrong)
    with pytest.raises(UsageError, match="draft is given and draft_max is 0"):
        edgellm.load(tiny, draft=tiny, draft_max=0)


def test_a_draft_model_counts_as_memory(tiny: Path, other: Path) -> None:
    alone = memory_needed(tiny, LoadOptions(), None)
    both = memory_needed(tiny, LoadOptions(draft=other), None)
    assert both > alone
    with edgellm.load(tiny, draft=other) as model:
        assert sum(model.memory.values()) == both
    with pytest.raises(MemoryLimitError, match=r"draft [\d.]+ [kM]B"):
        edgellm.load(tiny, draft=other, max_memory=both - 1)
    edgellm.load(tiny, max_memory=alone).close()


def test_recurrent_models_say_that_nothing_is_drafted(unpacked: Path, tiny: Path) -> None:
    recurrent = official_gguf("mamba2", unpacked)
    with edgellm.load(recurrent, draft=tiny) as model:
        assert model.notes == ["speculative decoding is off: mamba2 models cannot take tokens back"]
        assert not model.scheduler.speculates
        assert "draft" not in model.memory
    with edgellm.load(recurrent) as model:
        assert model.notes == []
    with edgellm.load(recurrent, draft_max=4) as model:
        assert len(model.notes) == 1
    with pytest.raises(UsageError, match="cannot be a draft model: mamba2 models cannot take tokens back"):
        edgellm.load(official_gguf("llama", unpacked), draft=recurrent)


def test_backends_that_do_not_repeat_bits_say_that_nothing_is_drafted(tiny: Path) -> None:
    with edgellm.load(tiny, backend="interpreter", draft=tiny) as model:
        assert model.notes == [
            "speculative decoding is off: on the backend interpreter the answers could depend on it"
        ]
        assert not model.scheduler.speculates


def test_files_are_closed_together(tiny: Path, other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    close = GGUFFile.close

    def note(self: GGUFFile) -> None:
        closed.append(self.path.name)
        close(self)

    monkeypatch.setattr(GGUFFile, "close", note)
    edgellm.load(tiny, draft=other).close()
    assert sorted(closed) == ["other.gguf", "tiny.gguf"]
    closed.clear()

    def fail(*_: object, **__: object) -> None:
        raise UsageError("no scheduler today")

    monkeypatch.setattr(Scheduler, "__init__", fail)
    with pytest.raises(UsageError, match="no scheduler today"):
        edgellm.load(tiny, draft=other)
    assert sorted(closed) == ["other.gguf", "tiny.gguf"]
