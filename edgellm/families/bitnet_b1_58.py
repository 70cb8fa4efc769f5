"""BitNet b1.58 2B4T: BitNet with squared ReLU."""

from __future__ import annotations

from edgellm.families import bitnet
from edgellm.families.checkpoint import Checkpoint
from edgellm.families.family import Family
from edgellm.families.source import Source
from edgellm.program import Program


def build(source: Source) -> Program:
    """Program of a GGUF file of architecture `bitnet-b1.58`."""
    return bitnet.stack(source, "bitnet_b1_58", "relu2")


FAMILY = Family(build, Checkpoint((), bitnet.metadata, bitnet.parts, mixture="bitnet"))
