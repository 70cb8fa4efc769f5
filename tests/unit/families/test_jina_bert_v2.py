"""JinaBERT from its checkpoint against the formulas of its paper (arXiv 2310.19923), in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgellm.errors import UnsupportedError
from edgellm.families import build, plan
from edgellm.program.interpreter import Interpreter
from edgellm.program.ops import Program
from tests.support.encoders import drawn

Rows = NDArray[np.float64]
WIDTH, FF, HEADS, LAYERS, VOCAB = 48, 40, 6, 2, 64
CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["JinaBertForMaskedLM"],
    "position_embedding_type": "alibi",
    "feed_forward_type": "geglu",
    "hidden_act": "gelu",
    "hidden_size": WIDTH,
    "intermediate_size": FF,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": 8192,
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "vocab_size": VOCAB,
}
SLOPES = [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]
ERF = np.vectorize(math.erf, otypes=[np.float64])


def shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCAB, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "pooler.dense.weight": (WIDTH, WIDTH),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        names = [*(f"attention.self.{part}" for part in ("query", "key", "value")), "attention.output.dense"]
        for name in names:
            found |= {f"{layer}.{name}.weight": (WIDTH, WIDTH), f"{layer}.{name}.bias": (WIDTH,)}
        found[f"{layer}.mlp.gated_layers.weight"] = (2 * FF, WIDTH)
        found |= {f"{layer}.mlp.wo.weight": (WIDTH, FF), f"{layer}.mlp.wo.bias": (WIDTH,)}
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.mlp.layernorm"]
    return found | {f"{name}.{part}": (WIDTH,) for name in norms for part in ("weight", "bias")}


def forward(w: dict[str, NDArray[np.float32]], ids: list[int]) -> Rows:
    def linear(x: Rows, name: str) -> Rows:
        bias = w.get(f"{name}.bias", np.zeros(1, np.float32))
        return np.asarray(x @ w[f"{name}.weight"].T.astype(np.float64) + bias)

    def norm(x: Rows, name: str) -> Rows:
        x = x - x.mean(axis=1, keepdims=True)
        return np.asarray(
            x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-12) * w[f"{name}.weight"] + w[f"{name}.bias"]
        )

    distance = np.abs(np.arange(len(ids))[:, None] - np.arange(len(ids)))
    x = w["embeddings.word_embeddings.weight"][ids].astype(np.float64)
    x = norm(x + w["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        q, k, v = (
            linear(x, f"{layer}.attention.self.{part}").reshape(len(ids), HEADS, -1)
            for part in ("query", "key", "value")
        )
        out = np.empty_like(q)
        for h, slope in enumerate(SLOPES):
            p = np.exp(q[:, h] @ k[:, h].T / math.sqrt(WIDTH // HEADS) - slope * distance)
            out[:, h] = p / p.sum(axis=1, keepdims=True) @ v[:, h]
        y = linear(out.reshape(len(ids), WIDTH), f"{layer}.attention.output.dense")
        x = norm(x + y, f"{layer}.attention.output.LayerNorm")
        both = linear(x, f"{layer}.mlp.gated_layers")
        gate = both[:, :FF]
        y = linear(0.5 * gate * (1 + ERF(gate / math.sqrt(2))) * both[:, FF:], f"{layer}.mlp.wo")
        x = norm(x + y, f"{layer}.mlp.layernorm")
    return x


def planned() -> tuple[Program, dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]:
    source = drawn(shapes(), 5)
    found = plan(CONFIG, shapes())
    assert found.architecture == "jina-bert-v2"
    weights = {t.name: np.asarray(t.make.apply([source[key] for key in t.sources])) for t in found.tensors}
    metadata = {"general.architecture": found.architecture, **found.metadata}
    return build(metadata, {name: array.shape for name, array in weights.items()}), weights, source


IDS = np.random.default_rng(1).integers(0, VOCAB, 40).tolist()


def test_rows_are_those_of_the_formulas() -> None:
    program, weights, source = planned()
    found = Interpreter(program, weights).hidden(IDS)
    np.testing.assert_allclose(found, forward(source, IDS), atol=2e-4)


def test_rows_of_the_engine_are_those_of_the_formulas() -> None:
    pytest.importorskip("edgellm._native", reason="needs the built extension module")
    from tests.contract.test_engine import _engine

    program, weights, source = planned()
    found = np.asarray(_engine(program, weights).hidden(np.asarray(IDS, np.int32)))
    np.testing.assert_allclose(found, forward(source, IDS), atol=2e-3)


def test_another_feed_forward_part_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="'feed_forward_type'"):
        plan(CONFIG | {"feed_forward_type": "reglu"}, shapes())
