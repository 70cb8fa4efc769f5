"""Chat: messages, templates in a sandbox, and which of a prompt's characters a person wrote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["render"]


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
