"""A LoRA adapter off, at half and at full strength: python examples/lora.py MODEL ADAPTER."""

import sys

import edgellm

with edgellm.load(sys.argv[1], lora=sys.argv[2]) as model:
    name = model.adapters[0].name
    for scale in (0.0, 0.5, 1.0):
        answer = model.generate("Once upon a time", lora={name: scale}, max_tokens=20, temperature=0)
        print(f"{scale}: {answer}")
