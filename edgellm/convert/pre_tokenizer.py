"""The cutting rules of a tokenizer.json, in the form the runtime has them, and llama.cpp's name for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgellm.errors import ModelError, UnsupportedError, show
from edgellm.tokenizer.bpe import check_expression
from edgellm.tokenizer.pipeline import steps_of
from edgellm.tokenizer.pre_names import PRE_TOKENIZERS

# Of several names for the same rules, these are written: every reader of GGUF knows them.
_PREFERRED = (
    "llama-bpe", "gpt-2", "qwen2", "qwen35", "starcoder", "deepseek-v3", "deepseek-llm", "deepseek-coder",
    "tekken", "gpt-4o", "dbrx", "falcon",
)  # fmt: skip
_GPT2 = PRE_TOKENIZERS["gpt-2"].rules[0]


def pre_tokenizer_rules(value: Any) -> tuple[bool, tuple[str, ...]]:
    """The expressions of a byte-level `pre_tokenizer`, applied in order to the pieces the one before left.

    With them: True if a text gets a space before it. Raises UnsupportedError for a step that GGUF readers
    have no rule for.
    """
    steps = list(steps_of(value))
    if not any(step.get("type") == "ByteLevel" for step in steps):
        raise _unsupported("without ByteLevel")
    prefixed = False
    for i, step in enumerate(steps):
        if step.get("type") == "ByteLevel" and step.get("add_prefix_space", True):
            if i:
                raise _unsupported("ByteLevel with 'add_prefix_space' after another step")
            prefixed = True
    return prefixed, tuple(rule for step in steps for rule in _rules(step))


def _rules(step: Mapping[str, Any]) -> tuple[str, ...]:
    match step.get("type"):
        case "ByteLevel":
            assert isinstance(_GPT2, str)
            return (_GPT2,) if step.get("use_regex", True) else ()
        case "Digits":
            return (r"\p{N}",) if step.get("individual_digits") else (r"\p{N}+",)
        case "Split":
            return (_split(step),)
        case "Punctuation" if step.get("behavior", "Isolated") == "Isolated":
            return (r"[\p{P}\$\+<=>\^`\|~]",)
    raise _unsupported(show(step.get("type")))


def prefix_scheme(normalizer: Any, pre_tokenizer: Any, texts: Sequence[str]) -> str:
    """The rule of SentencePiece's space before a text: every (part), always, first or never.

    texts: the vocabulary. Raises UnsupportedError for steps that do more than to write spaces as U+2581.
    """
    scheme = ""
    for step in steps_of(normalizer):
        match step.get("type"), step.get("prepend"), step.get("pattern"), step.get("content"):
            case "Prepend", "▁", _, _ if not scheme:
                scheme = "every"
            case "Replace", _, {"String": " "}, "▁":
                scheme = scheme or "never"
            case _:
                raise _unsupported(f"after the normalizer {show(step.get('type'))}")
    replaced = bool(scheme)
    for step in steps_of(pre_tokenizer):
        if step.get("type") == "Metaspace" and step.get("replacement") == "▁" and scheme in ("", "never"):
            scheme = str(step.get("prepend_scheme", "always"))
            # A cut before each space matters where a token goes on past one.
            if step.get("split", True) and any("▁" in text[1:] for text in texts):
                raise _unsupported("Metaspace with 'split' and tokens of several words")
        elif not (step.get("type") == "Split" and step.get("pattern") == {"String": " "} and replaced):
            raise _unsupported(show(step.get("type")))
    if scheme not in ("every", "always", "first", "never"):
        raise _unsupported("without Metaspace")
    return scheme


def _split(value: Mapping[str, Any]) -> str:
    pattern, behavior, invert = value.get("pattern"), value.get("behavior"), bool(value.get("invert"))
    if isinstance(pattern, Mapping) and isinstance(pattern.get("Regex"), str):
        rule = str(pattern["Regex"])
    elif isinstance(pattern, Mapping) and isinstance(pattern.get("String"), str):
        rule = re.escape(str(pattern["String"]))
    else:
        raise _unsupported("Split without a pattern")
    # (Removed, inverted) drops text without a match; such expressions match everything.
    if (behavior, invert) in (("Isolated", False), ("Isolated", True), ("Removed", True)):
        try:
            check_expression(rule)
        except ModelError as error:
            raise _unsupported(f"Split ({error})") from None
        return rule
    raise _unsupported(f"Split with behavior {behavior!r} and invert {invert}")


def known_name(rules: Sequence[str], *, ignore_merges: bool) -> str | None:
    """llama.cpp's name for these rules, or None."""
    names = [
        name
        for name, spec in PRE_TOKENIZERS.items()
        if spec.rules == tuple(rules) and spec.ignore_merges == ignore_merges and spec.byte_level
    ]
    return next((name for name in _PREFERRED if name in names), names[0] if names else None)


def normal_form(value: Any) -> str | None:
    """NFC, NFD, NFKC or NFKD where the normalizer is that alone; UnsupportedError for any other."""
    kinds = [step.get("type") for step in steps_of(value)]
    if not kinds:
        return None
    if len(kinds) == 1 and kinds[0] in ("NFC", "NFD", "NFKC", "NFKD"):
        return str(kinds[0])
    raise UnsupportedError(
        f"tokenizer.json: the normalizer {show(kinds)} has no name in GGUF for byte-level BPE, expected "
        "NFC, NFD, NFKC, NFKD or none"
    )


def _unsupported(what: str) -> UnsupportedError:
    return UnsupportedError(f"tokenizer.json: the pre-tokenizer {what} has no name in GGUF")
