"""The server's model by the OpenAI client (pip install openai): python examples/client.py [URL].

Start the server first: edgellm serve model.gguf
"""

import sys

from openai import OpenAI

client = OpenAI(
    base_url=(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080") + "/v1", api_key="none"
)
model = client.models.list().data[0].id
stream = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "Why is the sky blue?"}],
    max_tokens=60,
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
