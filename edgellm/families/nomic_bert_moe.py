"""Nomic BERT encoders with experts (nomic-embed-text v2): the layers are those of `nomic_bert`."""

from __future__ import annotations

from edgellm.families import nomic_bert

_DENSE = nomic_bert.FAMILY
FAMILY = _DENSE._replace(
    checkpoint=_DENSE.checkpoint._replace(
        model_types=(), architecture=None, mixture="nomic_bert", defaults={}
    )
)
