"""Cut text into the pieces that byte-pair merging works on.

ASCII text goes through Python's `re`: there `\\p{L}` is A-Za-z, and nothing has to be imported. Any other
text goes through the `tokenizers` library (Oniguruma), the reference for these expressions, so that what
counts as a letter does not depend on the Python version. Expressions that come from a file always go
through `tokenizers`, whose matcher gives up (ModelError) where a hostile one would run for ever.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from edgellm.errors import ModelError
from edgellm.tokenizer.pre_names import Rule, Thousands

Step = Callable[[str], list[str]]

# The ASCII members of the Unicode categories, as the inside of a character class; \x80 is none of ASCII.
_ASCII_MEMBERS = {
    "L": "A-Za-z",
    "Lu": "A-Z",
    "Ll": "a-z",
    "N": "0-9",
    "P": r"!-#%-*,-/:;?@\[-\]_{}",
    "S": r"$+<->\^`|~",
    **dict.fromkeys(("Lt", "Lm", "Lo", "M", "Han"), r"\x80"),
}

_TOKEN = re.compile(r"\\p\{(\w+)\}|\\.|\[|\]", re.DOTALL)


class PreTokenizer:
    """Splits text by rules; the pieces joined are the text."""

    def __init__(self, rules: Sequence[Rule], *, from_file: bool = False) -> None:
        self._rules = tuple(rules)
        self._from_file = from_file
        self._ascii_steps: list[Step] | None = None
        self._unicode_steps: list[Step] | None = None

    def split(self, text: str) -> list[str]:
        """The pieces of `text` in order; raises ModelError if an expression of the file cannot be used."""
        if text.isascii() and not self._from_file:
            if self._ascii_steps is None:
                self._ascii_steps = [_ascii_step(rule) for rule in self._rules]
            steps = self._ascii_steps
        else:
            if self._unicode_steps is None:
                self._unicode_steps = [_unicode_step(rule) for rule in self._rules]
            steps = self._unicode_steps
        pieces = [text]
        for step in steps:
            pieces = (
                step(pieces[0]) if len(pieces) == 1 else [part for piece in pieces for part in step(piece)]
            )
        return pieces


def is_panic(error: BaseException) -> bool:
    """True if the `tokenizers` library gave up on its input, which it says without an Exception."""
    return type(error).__name__ == "PanicException"


def ascii_pattern(expression: str) -> str:
    """The same expression over ASCII text in the syntax of Python's `re` (with `re.ASCII`)."""
    inside = False

    def replace(found: re.Match[str]) -> str:
        nonlocal inside
        text = found.group()
        if text in ("[", "]"):
            inside = text == "["
        elif found.group(1):
            members = _ASCII_MEMBERS[found.group(1)]
            return members if inside else f"[{members}]"
        return text

    return _TOKEN.sub(replace, expression)


def _ascii_step(rule: Rule) -> Step:
    if isinstance(rule, Thousands):
        return _in_thousands(_ascii_step(rule.run), rule.category)
    pattern = re.compile(ascii_pattern(rule), re.ASCII)

    def step(text: str) -> list[str]:
        pieces: list[str] = pattern.findall(text)
        if sum(map(len, pieces)) == len(text):
            return pieces
        pieces = []
        end = 0
        for found in pattern.finditer(text):
            if found.start() > end:
                pieces.append(text[end : found.start()])
            pieces.append(found.group())
            end = found.end()
        if end < len(text):
            pieces.append(text[end:])
        return pieces

    return step


def _unicode_step(rule: Rule) -> Step:
    if isinstance(rule, Thousands):
        return _in_thousands(_unicode_step(rule.run), rule.category)
    # 20 ms, so only where a text needs it.
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    try:
        split = Split(Regex(rule), "isolated")
    except Exception as error:
        raise ModelError(
            f"edgellm.tokenizer.pre_regexes: {rule[:80]!r} is not a regular expression ({error}): "
            "convert the model anew"
        ) from error

    def step(text: str) -> list[str]:
        try:
            return [piece for piece, _ in split.pre_tokenize_str(text)]
        except BaseException as error:
            if not is_panic(error):
                raise
            raise ModelError(
                f"the pre-tokenizer expression {rule[:80]!r} takes too many steps on a text of {len(text)} "
                "characters: the file's edgellm.tokenizer.pre_regexes cannot be used, convert the model anew"
            ) from error

    return step


def _in_thousands(isolate: Step, category: str) -> Step:
    def step(text: str) -> list[str]:
        pieces: list[str] = []
        for piece in isolate(text):
            if len(piece) > 3 and all(
                unicodedata.category(character).startswith(category) for character in piece
            ):
                head = len(piece) % 3
                pieces.extend([piece[:head]] if head else [])
                pieces.extend(piece[i : i + 3] for i in range(head, len(piece), 3))
            else:
                pieces.append(piece)
        return pieces

    return step
