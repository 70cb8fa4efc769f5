"""Byte-pair encoding: `tokenizer.ggml.model` gpt2 and gemma4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgellm import _native
from edgellm.errors import FormatError, ModelError, UnsupportedError
from edgellm.tokenizer.pre_names import PRE_TOKENIZERS, PreTokenizerSpec, Rule, Thousands
from edgellm.tokenizer.table import StringTable, Value, string_table, strings
from edgellm.tokenizer.vocabulary import MAX_MERGES, Vocabulary, flag, text_value

MAX_PRE_REGEXES = 32
MAX_PRE_REGEX_CHARS = 8_192


def pre_tokenizer_spec(metadata: Mapping[str, Value], vocabulary: Vocabulary) -> PreTokenizerSpec:
    """The file's rules for cutting text; UnsupportedError for an unknown name."""
    name = text_value(metadata, "tokenizer.ggml.pre", "")
    if vocabulary.model == "gemma4":
        name = "gemma4"
    if "edgellm.tokenizer.pre_regexes" in metadata:
        rules = strings(metadata, "edgellm.tokenizer.pre_regexes", MAX_PRE_REGEXES)
        for rule in rules:
            if not rule or len(rule) > MAX_PRE_REGEX_CHARS:
                raise FormatError(
                    f"edgellm.tokenizer.pre_regexes holds an expression of {len(rule)} characters, expected "
                    f"1 to {MAX_PRE_REGEX_CHARS}: convert the model anew"
                )
        return PreTokenizerSpec(
            tuple(rules),
            ignore_merges=flag(metadata, "edgellm.tokenizer.ignore_merges", False),
            byte_level=flag(metadata, "edgellm.tokenizer.byte_level", True),
        )
    if not name:
        vocabulary.warnings.append(
            "tokenizer.ggml.pre is missing: the text is cut by the default rules, which may not be the "
            "model's; convert the model anew"
        )
        name = "default"
    spec = PRE_TOKENIZERS.get(name)
    if spec is None:
        raise UnsupportedError(
            f"tokenizer.ggml.pre is {name[:80]!r}, which is not known; supported are "
            f"{', '.join(sorted(PRE_TOKENIZERS))}: convert the model with edgellm, "
            "which stores the expressions themselves"
        )
    return spec


class BpeEncoder:
    """Encodes plain text (no special tokens) by merging the pairs that the file ranks."""

    def __init__(self, metadata: Mapping[str, Value], vocabulary: Vocabulary, spec: PreTokenizerSpec) -> None:
        self._merges = string_table(metadata, "tokenizer.ggml.merges", MAX_MERGES)
        self._vocabulary = vocabulary
        with vocabulary.translated():
            self._native = _native.BpeEncoder(
                vocabulary.tokens.native,
                self._merges.native,
                *vocabulary.plain_tokens(),
                rules=native_rules(spec.rules),
                ignore_merges=spec.ignore_merges,
                byte_level=spec.byte_level,
            )

    def encode(self, text: str) -> list[int]:
        """The ids of `text`; raises ModelError where the merges and the vocabulary contradict each other."""
        with self._vocabulary.translated():
            return self._native.encode(text)

    def check(self) -> None:
        """Look at every merge; raises ModelError for one whose parts or result are not tokens."""
        find = self._vocabulary.tokens.find
        for merge in map(self._merges.text, range(len(self._merges))):
            left, _, right = merge.partition(" ")
            if min(find(left), find(right), find(left + right)) < 0:
                raise ModelError(
                    f"tokenizer.ggml.merges holds {merge[:80]!r}, whose parts and result are not all in "
                    "tokenizer.ggml.tokens: convert the model anew"
                )


def native_rules(rules: Sequence[Rule]) -> list[tuple[str, str]]:
    """The rules as the native part takes them: (expression, category of groups of three or "")."""
    return [(rule.run, rule.category) if isinstance(rule, Thousands) else (rule, "") for rule in rules]


def check_expression(expression: str) -> None:
    """Raise ModelError for an expression that texts cannot be cut by."""
    nothing = StringTable.of(())
    try:
        _native.BpeEncoder(
            nothing.native,
            nothing.native,
            b"",
            [-1] * 256,
            -1,
            rules=[(expression, "")],
            ignore_merges=False,
            byte_level=True,
        )
    except _native.ModelError as error:
        raise ModelError(str(error)) from None
