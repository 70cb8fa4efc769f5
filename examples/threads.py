"""Several answers at once with threads: python examples/threads.py [MODEL]."""

import sys
from concurrent.futures import ThreadPoolExecutor

import edgellm

PROMPTS = ["Once upon a time", "The best thing about", "In the year 2100", "My grandmother"]

with (
    edgellm.load(sys.argv[1] if len(sys.argv) > 1 else "smollm2", parallel=4) as model,
    ThreadPoolExecutor(4) as pool,
):
    # A model may be used from any thread; answers that run at the same time share each step of the engine.
    for text in pool.map(lambda prompt: prompt + model.generate(prompt, max_tokens=20).text, PROMPTS):
        print(text)
