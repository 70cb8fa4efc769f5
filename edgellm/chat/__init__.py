"""Chat: messages, templates in a sandbox, and which of a prompt's characters a person wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgellm.chat.answers import Message

__all__ = ["parse", "render"]


def render(
    template: str,
    messages: Iterable[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    **options: Any,
) -> str:
    """The prompt that transformers renders, given the source of a template alone.

    `options` are variables of the template; `add_generation_prompt` is true unless it is given, `bos_token`
    and `eos_token` are `<BOS>` and `<EOS>`. Messages reach the template as they are; if it refuses them,
    they are brought to the forms that it takes (`messages.Forms`). Raises TemplateError.
    """
    from edgellm.chat.answers import render_alone

    return render_alone(template, messages, tools, options)


def parse(
    template: str,
    text: str,
    tools: Sequence[Mapping[str, Any]] | None = None,
    prompt_end: str = "",
) -> Message:
    """An answer taken apart as its template writes answers: content, thoughts and tool calls.

    `prompt_end` is the end of the prompt before the answer; it tells whether the answer begins inside a
    thought. Without it, the end that the template itself renders is taken.
    """
    from edgellm.chat.answers import parse_alone

    return parse_alone(template, text, tools, prompt_end)
