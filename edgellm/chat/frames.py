"""Chat templates as the texts between the contents of messages, for devices that have no Jinja.

A prompt is then: text before the first message's content, content, text between it and the next one's, and so
on, up to the text after the last. The texts depend on the roles of both neighbours alone, or the template
cannot be written so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgellm.chat.template import ChatTemplate
from edgellm.errors import TemplateError, UnsupportedError

ROLES = ("system", "user", "assistant")
# Conversations that the texts are learned from, by the first letters of their roles.
_LEARNED = ("u", "su", "uau", "suau", "uauau", "suauau")
# Others, which the texts must write as the template does.
_TRIED = ("uauauauau", "suauauauau", "au", "sau", "uu", "suu", "us", "uaus", "ss", "s", "uaa")
_CONTENTS = (
    "Why is the sky blue?",
    "one\ntwo\n\nthree",
    "{{ 1 }} {% x %} <b>&amp;</b> \\n",
    "ünïcödé 日本語",
    "0",
)
_EDGES = " \n\t words between spaces \n "


@dataclass(frozen=True, slots=True)
class Frames:
    """Texts by the role before ("": the begin) and after ("": the answer).

    trimmed: roles whose contents lose white space at both ends.
    """

    texts: Mapping[tuple[str, str], str]
    trimmed: frozenset[str]

    def render(self, messages: Sequence[Mapping[str, str]]) -> str | None:
        """The prompt, or None if a pair of roles has no text."""
        parts = []
        before = ""
        for message in messages:
            role, content = message["role"], message["content"]
            text = self.texts.get((before, role))
            if text is None:
                return None
            parts += [text, content.strip() if role in self.trimmed else content]
            before = role
        last = self.texts.get((before, ""))
        return None if last is None else "".join((*parts, last))


def learn_frames(template: ChatTemplate) -> Frames:
    """The texts of a model's template, compared with it on conversations of up to ten messages.

    Raises UnsupportedError, which says why, for a template that cannot be written so.
    """
    if template.is_fallback:
        raise UnsupportedError("the model has no chat template")
    if "strftime_now" in template.source:
        raise UnsupportedError("the model's chat template writes today's date, which a file cannot hold")
    texts: dict[tuple[str, str], str] = {}
    for letters in _LEARNED:
        roles = [_role(letter) for letter in letters]
        found = _texts(template, roles)
        if found is None:
            if letters == "u":
                raise UnsupportedError("the model's chat template refuses a conversation of one question")
            continue
        for pair, text in zip(pairwise(["", *roles, ""]), found, strict=True):
            if texts.setdefault(pair, text) != text:
                raise _inexpressible(pair)
    frames = Frames(texts, frozenset(role for role in ROLES if _trims(template, texts, role)))
    for number, letters in enumerate((*_LEARNED, *_TRIED)):
        for shift in range(len(_CONTENTS) + 1):
            contents = [*_CONTENTS, _EDGES][shift:] + [*_CONTENTS, _EDGES][:shift]
            messages = [
                {"role": _role(letter), "content": contents[(i + number) % len(contents)]}
                for i, letter in enumerate(letters)
            ]
            mine = frames.render(messages)
            if mine is None:
                continue
            try:
                theirs = template.render(messages)
            except TemplateError:
                raise UnsupportedError(
                    "the model's chat template refuses conversations by more than the roles of neighbours"
                ) from None
            if mine != theirs:
                raise _inexpressible((letters, ""))
    return frames


def _role(letter: str) -> str:
    return next(role for role in ROLES if role[0] == letter)


def _mark(number: int) -> str:
    return f"Qz{number}content{number}zQ"


def _texts(template: ChatTemplate, roles: Sequence[str]) -> list[str] | None:
    """The texts around the contents of a conversation; None if the template refuses it."""
    marks = [_mark(number) for number in range(len(roles))]
    try:
        rest = template.render(
            [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        )
    except TemplateError:
        return None
    texts = []
    for mark in marks:
        if rest.count(mark) != 1:
            raise UnsupportedError(
                "the model's chat template leaves out messages, or writes them in another order"
            )
        text, rest = rest.split(mark)
        texts.append(text)
    return [*texts, rest]


def _trims(template: ChatTemplate, texts: Mapping[tuple[str, str], str], role: str) -> bool:
    """True if the template cuts white space off a role's contents."""
    if not any(role in pair for pair in texts):
        return False
    roles = {"user": ["user"], "system": ["system", "user"], "assistant": ["user", "assistant", "user"]}[role]
    content = f" \n {_mark(0)} \n "
    rendered = template.render([{"role": r, "content": content if r == role else "words"} for r in roles])
    return content not in rendered


def _inexpressible(pair: tuple[str, str]) -> UnsupportedError:
    return UnsupportedError(
        "the model's chat template writes a message differently depending on more than its neighbours "
        f"({' to '.join(filter(None, pair)) or 'begin'})"
    )
