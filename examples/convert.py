"""A checkpoint to GGUF, and the file in a smaller format: python examples/convert.py CHECKPOINT FOLDER."""

import sys
from pathlib import Path

import edgellm

source, folder = sys.argv[1], Path(sys.argv[2])
large = edgellm.convert(source, folder / "model-f16.gguf", type="F16")
small = edgellm.quantize(large.path, folder / "model-q4.gguf", type="Q4_K_M")
for written in (large, small):
    print(
        written.path.name,
        f"{written.path.stat().st_size / 1e6:.1f} MB:",
        written.quality and written.quality.summary(),
    )
