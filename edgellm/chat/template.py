"""Chat templates: from messages to the token ids a model was trained to see.

The template comes from the GGUF file (`tokenizer.chat_template`, and named ones such as
`tokenizer.chat_template.tool_use`); it runs in a sandbox with limits (`sandbox`), and what a person wrote
can never become a special token (`marking`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from edgellm.chat.marking import Marker, Marks
from edgellm.chat.messages import (
    SYSTEM_WORDS,
    THOUGHT_KEYS,
    Forms,
    Message,
    adapt,
    check_messages,
    plain_data,
    with_system_words,
)
from edgellm.errors import TemplateError, show

if TYPE_CHECKING:
    from edgellm.chat.jinja import Template
    from edgellm.chat.syntax import Syntax

_KEY = "tokenizer.chat_template"
_RESERVED = ("messages", "tools", "add_generation_prompt")

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_STOPS = ("<|im_end|>", "<|im_start|>")


class ChatTokenizer(Protocol):
    """The part of a tokenizer that a chat template needs."""

    @property
    def bos_id(self) -> int | None: ...
    @property
    def eos_id(self) -> int | None: ...
    @property
    def adds_bos(self) -> bool: ...
    @property
    def eog_ids(self) -> Collection[int]: ...
    @property
    def control_texts(self) -> Collection[str]: ...
    @property
    def marker_texts(self) -> Collection[str]: ...
    def token_text(self, token: int) -> str: ...
    def encode_segments(
        self, segments: Iterable[tuple[str, bool]], *, add_special: bool = False
    ) -> list[int]: ...


class ChatTemplate:
    """One model's chat templates, compiled on first use.

    `stops` are texts that end an answer and that the vocabulary may not know as tokens (fallback only).
    """

    def __init__(
        self,
        source: str,
        tokenizer: ChatTokenizer,
        *,
        named: Mapping[str, str] | None = None,
        is_fallback: bool = False,
    ) -> None:
        self.source = source
        self.named = dict(named or {})
        self.is_fallback = is_fallback
        self.stops = CHATML_STOPS if is_fallback else ()
        self._tokenizer = tokenizer
        self._marker: Marker | None = None

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], tokenizer: ChatTokenizer) -> ChatTemplate:
        """The templates in a GGUF file's metadata; ChatML, with a warning on first use, if it has none.

        Raises TemplateError if a template is not a string.
        """
        named = _sources(metadata)
        source = _usual(named)
        named.pop("", None)
        return cls(source or CHATML, tokenizer, named=named, is_fallback=not source)

    def warm(self) -> None:
        """Compile the template now (imports Jinja); TemplateError if it is malformed."""
        self._template(self.source)

    @property
    def may_think(self) -> bool:
        """False if the source names nothing that thoughts are written with; much cheaper than `syntax`."""
        return re.search("think|channel|reasoning", self.source, re.IGNORECASE) is not None

    def thoughts(self) -> Syntax:
        """Syntax of answers without calls, learned on first use; much cheaper than `syntax`."""
        from edgellm.chat.learned import thoughts

        return thoughts(self.source, self._special("bos"), self._special("eos"))

    def syntax(self, *, tools: bool = False) -> Syntax:
        """Syntax of answers, learned on first use; `tools`: by the template for tools."""
        from edgellm.chat.learned import syntax

        source = self.named.get("tool_use", self.source) if tools else self.source
        learned = syntax(source, self._special("bos"), self._special("eos"))
        tokenizer = self._tokenizer
        return learned.ending_at(tokenizer.token_text(token) for token in tokenizer.eog_ids)

    def thinking(self, *, tools: bool = False) -> Mapping[str, Mapping[str, Any]]:
        """Template variables of each level of thinking (on, off, low, ...) that the template can honour."""
        from edgellm.chat.learned import levels

        source = self.named.get("tool_use", self.source) if tools else self.source
        return levels(source, self._special("bos"), self._special("eos"))

    def render(
        self,
        messages: Iterable[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt's text. Raises as `encode` does."""
        parts = self._segments(messages, add_generation_prompt, tools, variables)
        return "".join(text for text, _ in parts)

    def encode(
        self,
        messages: Iterable[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> list[int]:
        """The prompt's token ids, with one BOS where the model wants one.

        `variables` are handed to the template as they are (`enable_thinking=False`). Raises TemplateError
        for messages that are malformed or that the template refuses, and for a template that is malformed
        or exceeds its limits; UnsupportedError for content that is not text.
        """
        parts = self._segments(messages, add_generation_prompt, tools, variables)
        ids = self._tokenizer.encode_segments(parts, add_special=False)
        bos = self._tokenizer.bos_id
        if self._tokenizer.adds_bos and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        return ids

    def _segments(
        self,
        messages: Iterable[Message],
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ) -> list[tuple[str, bool]]:
        from edgellm.chat.budget import budget_for
        from edgellm.chat.sandbox import sandbox

        if self.is_fallback:
            _warn_of_fallback()
        for name in _RESERVED:
            if name in variables:
                raise TemplateError(f"The template variable {name!r} cannot be set from outside")
        plain_messages = check_messages(messages)
        variables = dict(variables)
        words = variables.pop(SYSTEM_WORDS, None)
        if isinstance(words, str):
            plain_messages = with_system_words(plain_messages, words)
        plain_tools = None if not tools else plain_data(list(tools))
        plain_variables = {name: plain_data(value) for name, value in variables.items()}
        source = self.named.get("tool_use", self.source) if plain_tools else self.source
        plain_messages = adapt(plain_messages, self._forms(source, plain_messages))

        marker = self._get_marker()
        inputs = [source, *strings_of(plain_messages), *strings_of(plain_tools), *strings_of(plain_variables)]
        marks = Marks(inputs)
        values: dict[str, Any] = {
            "documents": None,
            "bos_token": self._special("bos"),
            "eos_token": self._special("eos"),
            **marker.mark_all(plain_variables, marks),
            "messages": [_mark_message(message, marker, marks) for message in plain_messages],
            "tools": marker.mark_all(plain_tools, marks),
            "add_generation_prompt": add_generation_prompt,
        }
        budget = budget_for(count_values(plain_messages) + count_values(plain_tools), sum(map(len, inputs)))
        budget.marks = marks
        return marks.segments(sandbox().render(self._template(source), values, budget))

    def _forms(self, source: str, messages: Sequence[dict[str, Any]]) -> Forms:
        """The forms that the template takes, learned where messages have more than one."""
        calls = any("tool_calls" in message for message in messages)
        thoughts = any(key in message for message in messages for key in THOUGHT_KEYS)
        if not calls and not thoughts and "content" not in _looped(source):
            return Forms()
        from edgellm.chat.probing import prober

        found = prober(source, self._special("bos"), self._special("eos"))
        if calls:
            return found.forms
        return Forms(found.content_form, thoughts=found.thoughts_key)

    def _template(self, source: str) -> Template:
        from edgellm.chat.sandbox import sandbox

        return sandbox().load(source)

    def _get_marker(self) -> Marker:
        if self._marker is None:
            self._marker = Marker(self._tokenizer.control_texts, self._tokenizer.marker_texts)
        return self._marker

    def _special(self, which: str) -> str:
        token = self._tokenizer.bos_id if which == "bos" else self._tokenizer.eos_id
        return "" if token is None else self._tokenizer.token_text(token)


_FREE_TEXTS = ("content", *THOUGHT_KEYS)


def _mark_message(message: dict[str, Any], marker: Marker, marks: Marks) -> dict[str, Any]:
    marked = {}
    own_words = message["role"] == "assistant"
    for key, value in message.items():
        if key == "role":
            marked[key] = value
        elif key in _FREE_TEXTS and isinstance(value, str):
            marked[key] = marker.mark(value, marks, own_words=own_words, free=True)
        elif key == "content":
            marked[key] = [
                {**part, "text": marker.mark(part["text"], marks, own_words=own_words, free=True)}
                for part in value or ()
            ]
        else:
            marked[marker.mark(key, marks)] = marker.mark_all(value, marks)
    return marked


def _looped(source: str) -> str:
    """The expressions that loops of a template run over, joined."""
    return " ".join(re.findall(r"\bfor\s+[\w, ]+\s+in\s+([^%}]*)", source))


def strings_of(value: Any) -> list[str]:
    """All strings in JSON-like data, keys included."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for item in pair for text in strings_of(item)]
    if isinstance(value, list):
        return [text for item in value for text in strings_of(item)]
    return []


def count_values(value: Any) -> int:
    """Number of values in JSON-like data."""
    if isinstance(value, dict):
        return 1 + sum(count_values(item) for item in value.values())
    if isinstance(value, list):
        return 1 + sum(count_values(item) for item in value)
    return 1


@functools.cache
def _warn_of_fallback() -> None:
    import logging

    logging.getLogger("edgellm").warning(
        "edgellm: this model has no chat template; ChatML is used instead, and the answers may be poor "
        "(it may not be a chat model: `edgellm run --raw` continues a text)"
    )


def template_source(metadata: Mapping[str, Any]) -> str:
    """The template that a file's metadata gives its chats; raises as `ChatTemplate.from_metadata`."""
    return _usual(_sources(metadata)) or CHATML


def _usual(named: Mapping[str, str]) -> str:
    """The template that chats take if they name none; empty if there is none."""
    source = named.get("") or named.get("default", "")
    return source if source.strip() else ""


def _sources(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The templates by their names; the nameless one is the usual one."""
    named = {}
    for key in metadata:
        if key == _KEY or key.startswith(_KEY + "."):
            source = metadata[key]
            if not isinstance(source, str):
                raise TemplateError(f"{key} is {show(source)}, expected a string")
            named[key[len(_KEY) + 1 :]] = source
    return named
