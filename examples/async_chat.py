"""Several answers at once with asyncio: python examples/async_chat.py [MODEL]."""

import asyncio
import sys

import edgellm

QUESTIONS = ["Name a colour.", "Name a fruit.", "Name a river."]


async def ask(model: edgellm.Model, question: str) -> str:
    text = ""
    async for piece in model.chat([{"role": "user", "content": question}], max_tokens=20):
        text += piece
    return text


async def main() -> None:
    with edgellm.load(sys.argv[1] if len(sys.argv) > 1 else "smollm2") as model:
        # Answers that run at the same time share each step of the engine.
        answers = await asyncio.gather(*(ask(model, question) for question in QUESTIONS))
    for question, answer in zip(QUESTIONS, answers, strict=True):
        print(question, answer)


asyncio.run(main())
