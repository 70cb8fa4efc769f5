"""A conversation of two questions: python examples/chat.py [MODEL]."""

import sys

import edgellm

with edgellm.load(sys.argv[1] if len(sys.argv) > 1 else "smollm2") as model:
    messages = [{"role": "user", "content": "Why is the sky blue?"}]
    answer = model.chat(messages, max_tokens=100, temperature=0)
    print(answer)
    print(answer.finish_reason, answer.stats)

    # The conversation goes on: the model's answer is a message, too.
    messages += [answer.message.as_dict(), {"role": "user", "content": "In one sentence, please."}]
    print(model.chat(messages, max_tokens=60))
