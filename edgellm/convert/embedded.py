"""Metadata that lets a device without Python run a model: its program, tokenizer and chat template.

`edgellm.embedded.*` holds, for native/api/embedded.cc:

- `version`: of these keys, 1. `program`: the program's text form. `context`: tokens that it is good for.
- `tokenizer`: bpe, spm, or none, with `tokenizer_reason`. With the first two: `control_ids`, `marker_ids`,
  `lstrip_ids`, `rstrip_ids`, `single_word_ids`, `before_ids`, `after_ids`, `end_ids`: arrays of ids;
  `unknown_id` and `begin_id`: ids or -1; `space_prefix`: none, every, always or first; of bpe `rules` and
  `rule_categories`: arrays of strings, `ignore_merges` and `byte_level`: bools.
- `chat_roles`, `chat_next`, `chat_texts`: arrays of strings: the text between a message of one role ("": the
  begin) and the next ("": the answer). `chat_trimmed`: roles whose contents lose white space at both ends. Or
  `chat_reason`: why there is none of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgellm.chat.frames import learn_frames
from edgellm.chat.template import ChatTemplate
from edgellm.convert.pipeline import Pair
from edgellm.errors import TemplateError, UnsupportedError
from edgellm.families import build, trained_context
from edgellm.gguf.types import ValueType
from edgellm.program import to_text
from edgellm.tokenizer import Tokenizer

PREFIX = "edgellm.embedded."
VERSION = 1


def embedded(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], context: int | None = None
) -> dict[str, Pair]:
    """The `edgellm.embedded.*` pairs of a model. context: most tokens of a sequence (None: as trained).

    What the native part has no code for is stored as the reason why it is missing. Raises as
    `families.build` and `Tokenizer.from_metadata` do.
    """
    context = trained_context(metadata) if context is None else context
    values: dict[str, Any] = {
        "version": VERSION,
        "program": to_text(build(metadata, shapes, context=context)),
        "context": context,
    }
    tokenizer = Tokenizer.from_metadata(metadata)
    try:
        values |= tokenizer.portable()
    except UnsupportedError as error:
        values |= {"tokenizer": "none", "tokenizer_reason": str(error)}
    try:
        frames = learn_frames(ChatTemplate.from_metadata(metadata, tokenizer))
        values |= {
            "chat_roles": [role for role, _ in frames.texts],
            "chat_next": [role for _, role in frames.texts],
            "chat_texts": list(frames.texts.values()),
            "chat_trimmed": sorted(frames.trimmed),
        }
    except (UnsupportedError, TemplateError) as error:
        values["chat_reason"] = str(error)
    # An empty array says no more than none.
    return {PREFIX + name: Pair(value, _kind(value)) for name, value in values.items() if value != []}


def missing(pairs: Mapping[str, Pair]) -> list[str]:
    """Reasons why a part of the model cannot be used without Python."""
    keys = (PREFIX + "tokenizer_reason", PREFIX + "chat_reason")
    return [str(pairs[key].value) for key in keys if key in pairs]


def _kind(value: Any) -> ValueType | None:
    if isinstance(value, list):
        return ValueType.STRING if isinstance(value[0], str) else ValueType.INT32
    return ValueType.INT32 if isinstance(value, int) and not isinstance(value, bool) else None
