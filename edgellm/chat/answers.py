"""Rendering and parsing with the source of a template alone, without a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgellm.chat.messages import adapt, check_messages, plain_data, rename_thoughts
from edgellm.errors import TemplateError


def render_alone(
    source: str,
    messages: Iterable[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None,
    options: Mapping[str, Any],
) -> str:
    """`edgellm.chat.render`."""
    from edgellm.chat.budget import budget_for
    from edgellm.chat.probing import BOS, EOS, prober
    from edgellm.chat.sandbox import sandbox
    from edgellm.chat.template import count_values, strings_of

    found = prober(source)
    template = found.template or sandbox().load(source)
    given = [rename_thoughts(message, found.thoughts_key) for message in check_messages(messages)]
    plain_tools = None if tools is None else plain_data(list(tools))
    values = {
        "documents": None,
        "bos_token": BOS,
        "eos_token": EOS,
        "add_generation_prompt": True,
        **{name: plain_data(value) for name, value in options.items()},
        "tools": plain_tools,
    }
    n_chars = len(source) + sum(map(len, (*strings_of(given), *strings_of(plain_tools))))
    n_values = count_values(given) + count_values(plain_tools)

    def rendered(these: Sequence[dict[str, Any]]) -> str:
        return sandbox().render(template, {**values, "messages": these}, budget_for(n_values, n_chars))

    try:
        return rendered(given)
    except TemplateError:
        adapted = adapt(given, found.forms)
        if adapted == given:
            raise
        return rendered(adapted)
