"""Modules of sentence-transformers: written, or refused by their names."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.pipeline import write
from edgellm.convert.recipes import recipe
from edgellm.convert.source import plan_conversion
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from edgellm.errors import EdgeLLMError, FormatError, UnsupportedError
from tests.support.checkpoints import save
from tests.support.tokenizer_files import trained_json, write_tokenizer

pytest.importorskip("edgellm._native", reason="needs the built extension module")

WIDTH, VOCAB, N_CTX = 32, 700, 48
CONFIG = {
    "model_type": "bert", "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": N_CTX, "layer_norm_eps": 1e-12, "vocab_size": VOCAB,
}  # fmt: skip
BERT_NORMALIZER = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
BERT_NORMALIZER |= {"strip_accents": None, "lowercase": True}


def weights() -> dict[str, Any]:
    rng = np.random.default_rng(3)

    def matrix(*shape: int) -> np.ndarray[Any, Any]:
        return rng.standard_normal(shape).astype(np.float32) * 0.2

    found = {
        "embeddings.word_embeddings.weight": matrix(VOCAB, WIDTH),
        "embeddings.position_embeddings.weight": matrix(N_CTX, WIDTH),
        "embeddings.token_type_embeddings.weight": matrix(2, WIDTH),
    }
    layer = "encoder.layer.0"
    for name in (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
    ):
        found |= {f"{layer}.{name}.weight": matrix(WIDTH, WIDTH), f"{layer}.{name}.bias": matrix(WIDTH)}
    found |= {
        f"{layer}.intermediate.dense.weight": matrix(64, WIDTH),
        f"{layer}.intermediate.dense.bias": matrix(64),
    }
    found |= {f"{layer}.output.dense.weight": matrix(WIDTH, 64), f"{layer}.output.dense.bias": matrix(WIDTH)}
    for name in ("embeddings", f"{layer}.attention.output", f"{layer}.output"):
        found |= {f"{name}.LayerNorm.weight": 1 + matrix(WIDTH), f"{name}.LayerNorm.bias": matrix(WIDTH)}
    return found


@cache
def tokenizer_source() -> dict[str, Any]:
    """One tokenizer for all: training breaks ties at random."""
    return trained_json("WordPiece", BERT_NORMALIZER, {"type": "BertPreTokenizer"})


def bert(folder: Path, files: dict[str, Any], rename: tuple[str, str] = ("", "")) -> Path:
    """A small BERT checkpoint with these JSON files beside it."""
    write_tokenizer(
        folder, tokenizer_source(), {"cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>"}
    )
    (folder / "config.json").write_text(json.dumps(CONFIG))
    named = {
        name.replace(*rename) if rename[0] else name: ("F32", array) for name, array in weights().items()
    }
    save(folder / "model.safetensors", named)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


def modules(*kinds: str) -> list[dict[str, Any]]:
    return [
        {"idx": i, "name": str(i), "path": "" if i == 0 else f"{i}_{kind}"}
        | {"type": f"sentence_transformers.{'models' if i % 2 else 'base.modules.x'}.{kind}"}
        for i, kind in enumerate(kinds)
    ]


def metadata(folder: Path) -> dict[str, Any]:
    plan = plan_conversion(Checkpoint(folder), recipe("F32"), threads=1)
    return {key: pair.value for key, pair in plan.metadata.items()}


MODES = {"mean": 1, "cls": 2, "lasttoken": 3, "mean_sqrt_len_tokens": 1}
FLAGS = {"mean": "mean_tokens", "cls": "cls_token", "lasttoken": "lasttoken"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("listed", [False, True])
def test_pooling_by_name(mode: str, listed: bool, tmp_path: Path) -> None:
    settings = {
        "embedding_dimension": WIDTH,
        "pooling_mode": [mode] if listed else mode,
        "include_prompt": True,
    }
    files = {"1_Pooling/config.json": settings}
    if listed:
        files["modules.json"] = modules("Transformer", "Pooling", "Normalize")  # type: ignore[assignment]
    assert metadata(bert(tmp_path, files))["bert.pooling_type"] == MODES[mode]


@pytest.mark.parametrize("mode", FLAGS)
def test_pooling_by_flags(mode: str, tmp_path: Path) -> None:
    settings = {f"pooling_mode_{name}": name == FLAGS[mode] for name in (*FLAGS.values(), "max_tokens")}
    found = metadata(bert(tmp_path, {"1_Pooling/config.json": settings}))
    assert found["bert.pooling_type"] == MODES[mode]


REFUSED: dict[str, tuple[dict[str, Any], type[EdgeLLMError], str]] = {
    "two modes": (
        {"1_Pooling/config.json": {"pooling_mode": ["mean", "cls"]}},
        UnsupportedError,
        r"'mean', 'cls'",
    ),
    "two flags": (
        {"1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}},
        UnsupportedError,
        "the pooling is",
    ),
    "max": ({"1_Pooling/config.json": {"pooling_mode": "max"}}, UnsupportedError, "'max'"),
    "weighted": (
        {"1_Pooling/config.json": {"pooling_mode_weightedmean_tokens": True}},
        UnsupportedError,
        "weightedmean",
    ),
    "none": ({"1_Pooling/config.json": {}}, UnsupportedError, "the pooling is"),
    "Dense": ({"modules.json": modules("Transformer", "Pooling", "Dense")}, UnsupportedError, "'Dense'"),
    "Dense by its folder": ({"2_Dense/config.json": {}}, UnsupportedError, "'Dense'"),
    "LayerNorm": (
        {"modules.json": modules("Transformer", "Pooling", "LayerNorm")},
        UnsupportedError,
        "'LayerNorm'",
    ),
    "own module": ({"modules.json": modules("Transformer", "MyModule")}, UnsupportedError, "'MyModule'"),
    "prompts": (
        {
            "1_Pooling/config.json": {"pooling_mode": "mean", "include_prompt": False},
            "config_sentence_transformers.json": {"prompts": {"query": "Query: "}},
        },
        UnsupportedError,
        "include_prompt",
    ),
    "no list": ({"modules.json": "x"}, FormatError, "holds 'x'"),
    "no type": ({"modules.json": [{"path": ""}]}, FormatError, "expected modules with a type"),
    "path": (
        {"modules.json": [{"type": "Pooling", "path": "../x"}]},
        FormatError,
        "expected a folder beside it",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused(name: str, tmp_path: Path) -> None:
    files, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        metadata(bert(tmp_path, files))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sentence_bert_config.json": {"max_seq_length": 20}}, N_CTX),
        ({"modules.json": modules("Transformer"), "sentence_bert_config.json": {"max_seq_length": 20}}, 20),
        (
            {"modules.json": modules("Transformer"), "sentence_bert_config.json": {"max_seq_length": 999}},
            N_CTX,
        ),
        (
            {"modules.json": modules("Transformer"), "sentence_bert_config.json": {"max_seq_length": None}},
            N_CTX,
        ),
        ({"modules.json": modules("Transformer"), "tokenizer_config.json": {"model_max_length": 24}}, 24),
        (
            {"modules.json": modules("Transformer"), "tokenizer_config.json": {"model_max_length": 10**30}},
            N_CTX,
        ),
    ],
)
def test_the_longest_text(files: dict[str, Any], expected: int, tmp_path: Path) -> None:
    if "tokenizer_config.json" in files:
        files = files | {"tokenizer_config.json": files["tokenizer_config.json"] | {"unk_token": "<unk>"}}
    folder = bert(tmp_path / "bert", files)
    assert metadata(folder)["bert.context_length"] == expected
    plan = plan_conversion(Checkpoint(folder), recipe("F32"), threads=1)
    write(plan, tmp_path / "x.gguf", threads=1)
    with Model.load(tmp_path / "x.gguf", LoadOptions(threads=1)) as model:
        assert model.n_ctx == expected
        short = model.embed(["the quick brown fox"])
    write(
        plan_conversion(Checkpoint(bert(tmp_path / "whole", {})), recipe("F32"), threads=1),
        tmp_path / "y.gguf",
        threads=1,
    )
    with Model.load(tmp_path / "y.gguf", LoadOptions(threads=1)) as model:
        np.testing.assert_array_equal(model.embed(["the quick brown fox"]), short)


@pytest.mark.parametrize(
    "rename", [("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"), ("e", "e")]
)
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_older_names_of_norms(rename: tuple[str, str], prefix: str, tmp_path: Path) -> None:
    folder = bert(tmp_path, {}, rename)
    tensors = Checkpoint(folder).tensors
    named = {prefix + name: ("F32", tensors.read(name, 1)) for name in tensors.shapes}
    named["cls.predictions.decoder.weight"] = ("F32", np.ones((3, 3), np.float32))
    save(folder / "model.safetensors", named)
    plan = plan_conversion(Checkpoint(folder), recipe("F32"), threads=1)
    norm = next(tensor for tensor in plan.tensors if tensor.name == "token_embd_norm.weight")
    np.testing.assert_array_equal(
        next(iter(norm.source.pieces())).reshape(-1), weights()["embeddings.LayerNorm.weight"]
    )
