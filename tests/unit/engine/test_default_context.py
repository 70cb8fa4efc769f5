"""The context that a model gets if none is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgellm.engine.load_options import LoadOptions
from edgellm.engine.loading import estimate
from tests.support.tiny_model import WIDTH, write_tiny_model

MIB = 1 << 20


@pytest.mark.parametrize(
    ("trained", "memory", "context"),
    [
        (2048, 1000 * MIB, 2048),
        (20_000, 1000 * MIB, 20_000),
        (131_072, 1000 * MIB, 32_768),
        (131_072, 5 * MIB, 16_384),
        (131_072, 3 * MIB, 8_192),
        (131_072, 1 * MIB, 4_096),
    ],
)
def test_the_context_is_what_memory_allows(tmp_path: Path, trained: int, memory: int, context: int) -> None:
    path = write_tiny_model(tmp_path / "tiny.gguf", **{"llama.context_length": trained})
    assert 2 * WIDTH * 2 * 16_384 == 2 * MIB  # keys and values of one layer, 16 bits each
    options = LoadOptions(backend="interpreter", max_memory=memory)
    assert estimate(path, options).n_ctx == context
