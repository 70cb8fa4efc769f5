"""An answer as it comes, and one that is broken off: python examples/stream.py [MODEL]."""

import sys

import edgellm

with edgellm.load(sys.argv[1] if len(sys.argv) > 1 else "smollm2") as model:
    messages = [{"role": "user", "content": "Tell a story about a lighthouse."}]
    for piece in model.chat(messages, max_tokens=100):
        print(piece, end="", flush=True)
    print()

    answer = model.chat(messages, max_tokens=100)
    for count, piece in enumerate(answer, 1):
        print(piece, end="", flush=True)
        if count == 10:
            break  # cancels the answer
    print(f"\n{answer.finish_reason}: {len(answer.ids)} tokens")
