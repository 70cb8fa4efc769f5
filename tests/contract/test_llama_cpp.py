"""Converted files in llama.cpp: it loads them and answers with the same greedy tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from edgellm.engine.options import GenerateOptions
from tests.contract.test_conversion import CASES, converted
from tests.llama_cpp_families import DIFFERENT, REFUSED, answers, exact_attention, otherwise
from tests.support.references import converted_gguf, reference
from tests.support.variants import variants
from tests.unit.families.test_nextn import cases as with_blocks

pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
pytest.importorskip("edgellm._native", reason="needs the built extension module")

__all__ = ["converted"]

# Cases in which llama.cpp differs from transformers, whose logits test_conversion.py checks.
OTHERWISE = {
    "deepseek_v2": "it requires a low-rank query, which DeepSeek V2 Lite has not",
    "exaone4": "it knows windows only for the published numbers of layers",
    "gpt_oss": "it rounds the stretched rotation whatever the config says",
    "mistral_swa": "it has no sliding window for the architecture llama",
    "phi3": "it requires a vocabulary with a token for a line's end",
}
GREEDY = GenerateOptions(temperature=0.0, max_tokens=16, ignore_eos=True, repeat_penalty=1.0)


def answer(path: Path, prompt: list[int], backend: str) -> list[int]:
    exact_attention()
    options = LoadOptions(threads=1, context=256, kv_type="f32", backend=backend)
    with Model.load(path, options) as model:
        generation = model.generate(prompt, GREEDY)
        list(generation)
        return generation.ids


@pytest.mark.parametrize("name", sorted(set(CASES) - set(OTHERWISE)))
def test_greedy_tokens_are_the_same(name: str, converted: Path) -> None:
    path = converted_gguf(name, converted)
    prompt = reference(name).token_ids[:40].tolist()
    assert answer(path, prompt, "llama_cpp") == answer(path, prompt, "native")


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M", "IQ4_XS"])
def test_quantized_files_load_and_answer(kind: str, converted: Path) -> None:
    # Activations are rounded to 8 bits in other places, so a tiny random model may choose otherwise.
    prompt = reference("llama").token_ids[:40].tolist()
    assert len(answer(converted_gguf("llama", converted, kind), prompt, "llama_cpp")) == GREEDY.max_tokens


def compared() -> list[str]:
    """Variants that llama.cpp loads, and whose differences are provable."""
    loaded = [name for name in variants() if otherwise(name, REFUSED) is None]
    known = ((name, otherwise(name, DIFFERENT)) for name in loaded)
    return [name for name, entry in known if entry is None or entry.read]


@pytest.mark.parametrize("name", compared())
def test_greedy_tokens_of_the_variants_are_the_same(name: str) -> None:
    # Variants that llama.cpp reads otherwise are the same once their files say what it reads.
    known = otherwise(name, DIFFERENT)
    found = answers(variants()[name], known.read if known else {})
    assert found["llama_cpp"] == found["native"]


@pytest.mark.parametrize("name", ["glm4_moe-small", "glm4_moe_lite-small", "qwen3_5_moe-small"])
def test_a_file_with_a_block_of_multi_token_prediction(name: str) -> None:
    config, shapes = with_blocks()[name]
    found = answers(replace(variants()[name], config=config, shapes=shapes))
    assert found["llama_cpp"] == found["native"]
