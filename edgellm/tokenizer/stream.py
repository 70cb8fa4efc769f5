"""Turn token ids into text one by one, never splitting a UTF-8 character."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class StreamDecoder:
    """Incremental detokenizer: the pushes and the flush together are the text of all bytes.

    `token_bytes(id)` gives the bytes of a token, `b""` for tokens that are not shown. Bytes that can no
    longer become a character are U+FFFD; bytes that still may are held until the next push or the flush.
    """

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that this token completes, often all of its own, sometimes none."""
        return self._decoder.decode(self._token_bytes(token))

    def flush(self) -> str:
        """The bytes held back, as U+FFFD; the decoder can then be used for a new text."""
        held = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return held
