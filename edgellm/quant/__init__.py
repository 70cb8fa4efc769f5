"""Storage formats of tensors: one NumPy codec each, which is the format's specification."""

from edgellm.quant.format import Format
from edgellm.quant.registry import FORMATS, decode, encode

__all__ = ["FORMATS", "Format", "decode", "encode"]
