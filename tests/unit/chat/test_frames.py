"""Chat templates as the texts between messages."""

from __future__ import annotations

import pytest

from edgellm.chat.frames import learn_frames
from edgellm.chat.template import ChatTemplate
from edgellm.errors import UnsupportedError
from edgellm.tokenizer import Tokenizer
from tests.support.vocabularies import small_bpe

CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou help."
    "<|im_end|>\n{% endif %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FOLDED = (
    "{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}"
    "{% for m in messages %}<turn>{{ m.role }}\n{{ (first if loop.first else '') + m.content }}</turn>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)


def template(source: str | None) -> ChatTemplate:
    metadata = small_bpe() if source is None else small_bpe(**{"tokenizer.chat_template": source})
    return ChatTemplate.from_metadata(metadata, Tokenizer.from_metadata(metadata))  # type: ignore[arg-type]


def test_a_system_message_that_the_template_adds() -> None:
    frames = learn_frames(template(CHATML))
    assert frames.texts["", "user"] == "<|im_start|>system\nYou help.<|im_end|>\n<|im_start|>user\n"
    assert frames.texts["", "system"] == "<|im_start|>system\n"
    assert frames.texts["user", ""] == "<|im_end|>\n<|im_start|>assistant\n"
    assert frames.trimmed == {"system", "user", "assistant"}


def test_a_system_message_inside_the_first_question() -> None:
    frames = learn_frames(template(FOLDED))
    assert frames.texts["", "system"] == "<turn>user\n"
    assert frames.texts["system", "user"] == "\n\n"
    assert not frames.trimmed
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": " b "}]
    assert frames.render(messages) == template(FOLDED).render(messages)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "has no chat template"),
        ("{{ strftime_now('%d') }}{{ messages[0].content }}", "today's date"),
        ("{{ raise_exception('no') }}", "refuses a conversation of one question"),
        ("{% for m in messages %}{{ m.content }}{{ loop.index }}{% endfor %}", "more than its neighbours"),
        ("{{ messages[-1].content }}", "leaves out messages"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "leaves out messages"),
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "leaves out messages"),
        (
            "{% for m in messages %}{{ m.content | replace('\n', ' ') }}|{% endfor %}",
            "more than its neighbours",
        ),
    ],
)
def test_a_template_that_cannot_be_written_so_is_refused(source: str | None, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        learn_frames(template(source))
