"""Embeddings of texts: the prompts of a model's file, pooling, length 1, and fewer dimensions.

A module apart from `model`, because it imports NumPy, which would take a third of a start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgellm.backends.base import Floats
from edgellm.engine.adapters import Scales
from edgellm.engine.reading import hidden_steps
from edgellm.errors import FormatError, UsageError, show

if TYPE_CHECKING:
    from edgellm.engine.model import Model

# Prompts of sentence-transformers: their names, their texts, and the name of the one that is used by itself.
NAMES = "edgellm.prompts.names"
TEXTS = "edgellm.prompts.texts"
DEFAULT = "edgellm.prompts.default"


def prompts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Texts that a model was trained to read before others, by their names; FormatError for damaged ones."""
    names, texts = metadata.get(NAMES, []), metadata.get(TEXTS, [])
    if not isinstance(names, list) or not isinstance(texts, list) or len(names) != len(texts):
        raise FormatError(
            f"{NAMES} and {TEXTS} are no lists of the same length, expected a text for each name: convert "
            "the model anew"
        )
    return {str(name): str(text) for name, text in zip(names, texts, strict=True)}


def prompt_text(metadata: Mapping[str, Any], name: str | None = None) -> str:
    """The prompt of a name; without a name the file's default, or none.

    Raises UsageError for a name that the file does not have.
    """
    known = prompts(metadata)
    chosen = metadata.get(DEFAULT) if name is None else name
    if chosen is None:
        return ""
    if chosen not in known:
        raise UsageError(
            f"prompt_name is {show(chosen)}; the prompts of this model are {', '.join(known) or 'none'}."
        )
    return known[chosen]


def embeddings(
    model: Model, texts: Sequence[Sequence[int]], scales: Scales, dimensions: int | None = None
) -> Floats:
    """Embeddings (n_texts, width) of length 1 of tokenized texts, which share steps in an encoder.

    dimensions: only the first ones, scaled to length 1 again (Matryoshka, arXiv 2205.13147). Raises
    UsageError for a number out of range or a model that ranks texts, ContextOverflowError for a text beyond
    the context.
    """
    if model.program.pooling == "rank":
        raise UsageError(f"{model.name}: the model ranks texts and makes no embeddings; see `rerank`.")
    width = model.program.widths[model.program.hidden]
    if dimensions is not None and not 1 <= dimensions <= width:
        raise UsageError(f"dimensions is {dimensions}; it must lie between 1 and {width}.")
    found: list[NDArray[np.float64]] = [np.empty((0, width))]
    for rows, lengths in hidden_steps(model, texts, scales):
        found.append(pool(rows, lengths, model.program.pooling))
    pooled = np.concatenate(found)[:, :dimensions]
    norms = np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)
    return np.asarray(pooled / norms, np.float32)


def pool(rows: Floats, lengths: Sequence[int], pooling: str) -> NDArray[np.float64]:
    """Rows (n_texts, width) of several texts, from hidden states (n_tokens, width) one after another."""
    ends = np.cumsum(lengths)
    starts = ends - np.asarray(lengths)
    if pooling == "last":
        return np.asarray(rows[ends - 1], np.float64)
    if pooling == "cls":
        return np.asarray(rows[starts], np.float64)
    sums = np.add.reduceat(rows, starts.tolist(), axis=0, dtype=np.float64)
    return np.asarray(sums / np.asarray(lengths)[:, None], np.float64)
