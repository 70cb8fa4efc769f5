"""Texts far longer than the context, refused before all of them is tokenized."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from edgellm.errors import ContextOverflowError
from edgellm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from edgellm.engine.model import Model

# Texts with fewer characters per token of the context are tokenized whole at once.
CHARS_PER_TOKEN = 4
CHUNK_CHARS = 16 * 1024
# Tokens that cutting a text in two may add, at most.
PER_CUT = 64
_longest: WeakKeyDictionary[Tokenizer, int] = WeakKeyDictionary()


def check_length(model: Model, texts: Iterable[str]) -> None:
    """Raise ContextOverflowError for texts that together cannot fit the context.

    Texts of more bytes than the context could hold in the longest tokens are refused at once; others that are
    long are tokenized in chunks until the context is exceeded.
    """
    texts = list(texts)
    n_chars = sum(map(len, texts))
    if n_chars <= CHARS_PER_TOKEN * model.n_ctx:
        return
    longest = longest_token(model.tokenizer)
    if n_chars > longest * model.n_ctx:
        raise ContextOverflowError(
            f"The prompt is {n_chars} characters long and the context holds {model.n_ctx} tokens of at most "
            f"{longest} bytes; shorten the prompt or load the model with a larger context."
        )
    n_tokens = 0
    for text in texts:
        for start in range(0, len(text), CHUNK_CHARS):
            chunk = text[start : start + CHUNK_CHARS]
            n_tokens += max(0, len(model.tokenizer.encode(chunk, add_special=False)) - PER_CUT)
            if n_tokens > model.n_ctx:
                raise ContextOverflowError(
                    f"The prompt is more than {n_tokens} tokens long and the context holds {model.n_ctx}; "
                    "shorten the prompt or load the model with a larger context."
                )


def longest_token(tokenizer: Tokenizer) -> int:
    """Bytes of the longest token."""
    known = _longest.get(tokenizer)
    if known is None:
        known = _longest[tokenizer] = max(map(len, tokenizer.all_token_bytes()), default=1)
    return known
