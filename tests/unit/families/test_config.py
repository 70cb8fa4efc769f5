"""Both generations of config.json read alike."""

from __future__ import annotations

import pytest

from edgellm.errors import ModelError, UnsupportedError
from edgellm.families import standard
from edgellm.families.config import Config

BASE = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}


@pytest.mark.parametrize(
    "form",
    [
        {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}},
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 2.0}},
        {"text_config": {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}}},
    ],
)
def test_rope_forms(form: dict[str, object]) -> None:
    rope = Config(BASE | form).rope()
    assert (rope.kind, rope.base, rope.number("factor")) == ("linear", 5e5, 2.0)


def test_rope_by_layer_type_and_its_absence() -> None:
    nested = {
        "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 1e4},
    }
    config = Config(BASE | {"rope_parameters": nested})
    assert config.rope("full_attention").base == 1e6
    assert config.rope("sliding_attention").base == 1e4
    assert Config(BASE | {"rope_scaling": None}).rope().kind == "default"


def test_derived_sizes() -> None:
    config = Config(BASE)
    assert (config.head_dim, config.n_kv_heads, config.tied) == (16, 4, None)
    assert Config(BASE | {"head_dim": 32, "tie_word_embeddings": True}).tied is True


def test_messages_name_the_key() -> None:
    with pytest.raises(ModelError, match="has no 'vocab_size'"):
        Config(BASE).integer("vocab_size")
    with pytest.raises(ModelError, match=r"'hidden_size' is 64\.5, expected an integer"):
        Config(BASE | {"hidden_size": 64.5}).integer("hidden_size")
    with pytest.raises(UnsupportedError, match=r"'hidden_act' is 'mish'.*supported: 'silu'"):
        Config(BASE | {"hidden_act": "mish"}).only("hidden_act", "silu")
    with pytest.raises(ModelError, match="'layer_types'"):
        Config(BASE | {"layer_types": ["full_attention"]}).layer_types()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"original_max_position_embeddings": 0.5}, "is 0.5, expected a number of at least 1"),
        ({"original_max_position_embeddings": 0}, "is 0, expected a number more than 0"),
        ({"factor": -2}, "'factor' is -2, expected a number more than 0"),
        ({"factor": "2"}, "'factor' is '2', expected a number"),
    ],
)
def test_bad_parameters_of_yarn_are_refused(parameters: dict[str, object], message: str) -> None:
    config = Config(BASE | {"max_position_embeddings": 64, "rope_scaling": {"type": "yarn", **parameters}})
    with pytest.raises(ModelError, match=message):
        standard.rope(config, "llama")
