"""Parts of `bench/int4.py`: sources that are the same function off the grid, ratios with their errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.int4 import Judged, Row, ratio, table
from bench.int4_sources import SUPER_BLOCK, make_source
from edgellm.convert.pipeline import write
from edgellm.convert.receipt import file_weights
from edgellm.convert.recipes import recipe
from edgellm.convert.requantize import plan_requantization
from edgellm.families import build
from edgellm.gguf.reader import GGUFFile
from edgellm.program.interpreter import Interpreter
from tests.support.tiny_model import write_tiny_model

pytest.importorskip("edgellm._native", reason="needs the built extension module")


@pytest.fixture
def quantized(tmp_path: Path) -> Path:
    """A model in Q4_0, its head in Q8_0."""
    path = tmp_path / "float.gguf"
    with GGUFFile.open(write_tiny_model(path, **{"llama.attention.head_count_kv": 2})) as file:
        write(plan_requantization(file, recipe("Q4_0"), threads=1), tmp_path / "q.gguf", threads=1)
    return tmp_path / "q.gguf"


@pytest.mark.parametrize("pad", [False, True])
def test_a_source_is_the_same_function_off_the_grid(quantized: Path, tmp_path: Path, pad: bool) -> None:
    make_source(quantized, tmp_path / "source.gguf", pad=pad)
    logits, matrices = [], []
    for path in (quantized, tmp_path / "source.gguf"):
        with GGUFFile.open(path) as file:
            weights = file_weights(file, 1)
            shapes = {name: info.shape for name, info in file.tensors.items()}
            logits.append(Interpreter(build(file.metadata, shapes), weights).logits([1, 2, 3, 4]))
            matrices.append(weights["blk.0.ffn_gate.weight"])
    np.testing.assert_allclose(logits[1], logits[0], rtol=0.02, atol=0.02)
    assert (matrices[1].shape[1] % SUPER_BLOCK == 0) == pad
    before, after = matrices[0], matrices[1][:, : matrices[0].shape[1]]
    factors = (before * after).sum(axis=0) / np.square(before).sum(axis=0)
    assert factors.std() > 0.05


def test_a_ratio_is_surer_than_its_parts_where_they_move_together() -> None:
    runs = [0.1, 0.4, 0.2, 0.8]
    peer = Judged(100, runs, 1.0, 0.9)
    ours = Judged(100, [run / 2 for run in runs], 0.5, 0.95)
    found, error = ratio(ours, peer)
    assert found == pytest.approx(0.5)
    assert error == pytest.approx(0, abs=1e-12)
    assert peer.error > 0.1
    rows = [Row("a", "Q4_K_M", "best", 0.6), Row("a", "Q4_K_M", "fast", 0.4), Row("b", "Q4_0", "fast", 1)]
    results = {rows[0].ours: ours, rows[0].peer: peer, rows[1].ours: ours, rows[1].peer: peer}
    lines = table(rows, results).splitlines()
    assert len(lines) == 4  # what is not measured has no row
    assert lines[2].endswith("| 0.500 ± 0.000 | 0.6 |")
    assert lines[3].endswith("| 0.4 missed |")
