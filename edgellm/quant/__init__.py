"""Storage formats of tensors: one NumPy codec each, which is the format's specification.

`native` has the encoders that search for the best scales, and decoding, for whole tensors on several threads.
"""

from edgellm.quant.format import Format
from edgellm.quant.registry import FORMATS, decode, encode

__all__ = ["FORMATS", "Format", "decode", "encode"]
