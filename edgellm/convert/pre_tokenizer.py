"""The cutting rules of a tokenizer.json, in the form the runtime has them, and llama.cpp's name for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgellm.errors import UnsupportedError
from edgellm.tokenizer.pre_names import PRE_TOKENIZERS

# Of several names for the same rules, these are written: every reader of GGUF knows them.
_PREFERRED = (
    "llama-bpe", "gpt-2", "qwen2", "qwen35", "starcoder", "deepseek-v3", "deepseek-llm", "deepseek-coder",
    "tekken", "gpt-4o", "dbrx", "falcon",
)  # fmt: skip
_GPT2 = PRE_TOKENIZERS["gpt-2"].rules[0]


def pre_tokenizer_rules(value: Any) -> tuple[str, ...]:
    """The expressions of a byte-level `pre_tokenizer`, applied in order to the pieces the one before left.

    Raises UnsupportedError for a step that GGUF readers have no rule for.
    """
    if value is None:
        return ()
    kind = value.get("type") if isinstance(value, Mapping) else None
    match kind:
        case "Sequence":
            return tuple(
                rule for part in value.get("pretokenizers") or () for rule in pre_tokenizer_rules(part)
            )
        case "ByteLevel":
            if value.get("add_prefix_space"):
                raise _unsupported("ByteLevel with 'add_prefix_space'")
            assert isinstance(_GPT2, str)
            return (_GPT2,) if value.get("use_regex", True) else ()
        case "Digits":
            return (r"\p{N}",) if value.get("individual_digits") else (r"\p{N}+",)
        case "Split":
            return (_split(value),)
        case "Punctuation" if value.get("behavior", "Isolated") == "Isolated":
            return (r"[\p{P}\$\+<=>\^`\|~]",)
    raise _unsupported(f"{kind!r}")


def _split(value: Mapping[str, Any]) -> str:
    pattern, behavior, invert = value.get("pattern"), value.get("behavior"), bool(value.get("invert"))
    if isinstance(pattern, Mapping) and isinstance(pattern.get("Regex"), str):
        rule = str(pattern["Regex"])
    elif isinstance(pattern, Mapping) and isinstance(pattern.get("String"), str):
        rule = re.escape(str(pattern["String"]))
    else:
        raise _unsupported("Split without a pattern")
    # What does not match is dropped by the latter; expressions written so leave nothing out.
    if (behavior, invert) in (("Isolated", False), ("Isolated", True), ("Removed", True)):
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
    if value is None:
        return None
    if isinstance(value, Mapping) and value.get("type") == "Sequence":
        parts = value.get("normalizers") or []
        if not parts:
            return None
        value = parts[0] if len(parts) == 1 else value
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind in ("NFC", "NFD", "NFKC", "NFKD"):
        return str(kind)
    raise UnsupportedError(
        f"tokenizer.json: the normalizer {kind!r} is not implemented for byte-level BPE, expected "
        "NFC, NFD, NFKC, "
        "NFKD or none"
    )


def _unsupported(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"tokenizer.json: the pre-tokenizer {what} is not implemented, expected ByteLevel, Split, Digits, "
        "Punctuation or a sequence of them"
    )
