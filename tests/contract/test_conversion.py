"""Every reference checkpoint, converted: the reference's logits, and the official converter's file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.lora import read_adapter
from edgellm.convert.pipeline import write
from edgellm.convert.recipes import recipe
from edgellm.convert.source import plan_conversion
from edgellm.convert.vocabulary import TEST_IDS, TEST_TEXTS
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from edgellm.gguf.reader import GGUFFile
from edgellm.quant import decode
from edgellm.tokenizer import Tokenizer
from edgellm.tokenizer.table import strings
from tests.support.paths import shared
from tests.support.references import OFFICIAL, converted_gguf, official_gguf, reference, unpacked

__all__ = ["unpacked"]

pytest.importorskip("edgellm._native", reason="needs the built extension module")

CASES = (
    "cohere2", "deepseek_v2", "ernie4_5", "exaone4", "gemma2", "gemma3", "gemma4", "glm4", "gpt2", "gpt_neox",
    "gpt_oss", "granite", "hunyuan", "lfm2", "llama", "llama2", "llama3", "mamba2", "mistral", "mistral_swa",
    "mixtral", "olmo2", "phi3", "qwen2", "qwen3", "qwen3_5", "qwen3_moe", "qwen3_next", "smollm3", "stablelm",
    "starcoder2",
)  # fmt: skip
# Keys that only we write, or that we always write where the official converter leaves them to a default.
OURS = {
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.eot_token_id",
    "edgellm.tokenizer.prepend_scheme",
    TEST_TEXTS,
    TEST_IDS,
}


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converted")


@pytest.mark.parametrize("name", CASES)
def test_the_converted_model_gives_the_logits_of_the_reference(name: str, converted: Path) -> None:
    expected = reference(name)
    with Model.load(converted_gguf(name, converted), LoadOptions(threads=1)) as model:
        expected.check(model.logits(expected.token_ids.tolist()))


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_file_is_that_of_the_official_converter(name: str, converted: Path, unpacked: Path) -> None:
    with (
        GGUFFile.open(converted_gguf(name, converted)) as ours,
        GGUFFile.open(official_gguf(name, unpacked)) as theirs,
    ):
        for key, value in theirs.metadata.items():
            assert ours.metadata[key] == value, key
            assert ours.metadata.value_type(key) == theirs.metadata.value_type(key), key
            assert ours.metadata.element_type(key) == theirs.metadata.element_type(key), key
        assert set(ours.metadata) - set(theirs.metadata) <= OURS
        assert set(ours.tensors) == set(theirs.tensors)
        for tensor, info in theirs.tensors.items():
            assert (ours.tensors[tensor].shape, ours.tensors[tensor].type) == (info.shape, info.type)
            # exp and pow of two libraries differ in the last bit.
            np.testing.assert_allclose(values(ours, tensor), values(theirs, tensor), rtol=3e-7, atol=0)


def values(file: GGUFFile, name: str) -> NDArray[np.float32]:
    info = file.tensors[name]
    return decode(info.type, file.data(name), info.shape)


@pytest.mark.parametrize("name", ["gemma3", "llama", "llama2", "phi3"])
def test_the_stored_lines_still_give_their_ids(name: str, converted: Path) -> None:
    with GGUFFile.open(converted_gguf(name, converted)) as file:
        tokenizer = Tokenizer.from_metadata(file.metadata)
        lines, all_ids = (strings(file.metadata, key, 1000) for key in (TEST_TEXTS, TEST_IDS))
    assert len(lines) > 10
    for line, ids in zip(lines, all_ids, strict=True):
        assert " ".join(map(str, tokenizer.encode(line, add_special=False))) == ids


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M", "Q2_K", "IQ4_XS", "MXFP4", "F16"])
@pytest.mark.parametrize("name", ["mixtral", "gemma3"])
def test_every_kind_of_file_loads_and_runs(name: str, kind: str, converted: Path) -> None:
    expected = reference(name)
    with Model.load(converted_gguf(name, converted, kind), LoadOptions(threads=1)) as model:
        logits = model.logits(expected.token_ids.tolist())
    off = np.sqrt(np.square(logits - expected.logits).mean() / np.square(expected.logits).mean())
    assert off < {"F16": 0.02, "Q8_0": 0.05}.get(kind, 0.8)


@pytest.mark.parametrize("name", ["gemma3", "llama", "qwen3"])
def test_a_merged_adapter_gives_the_logits_of_the_adapted_model(name: str, tmp_path: Path) -> None:
    folder = shared(f"references/{name}/lora")
    checkpoint = Checkpoint(folder.parent)
    checkpoint.tensors.add(read_adapter(folder))
    path = tmp_path / "merged.gguf"
    write(plan_conversion(checkpoint, recipe("F32"), threads=1), path, threads=1)
    with np.load(folder / "reference.npz") as arrays, Model.load(path, LoadOptions(threads=1)) as model:
        logits = model.logits(arrays["token_ids"].tolist())
        assert np.abs(logits - arrays["logits"]).max() < 0.01
        assert (logits.argmax(axis=1) == arrays["logits"].argmax(axis=1)).all()
