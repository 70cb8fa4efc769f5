"""Characters of vocabularies for what is not printable: SentencePiece's space, GPT-2's bytes."""

from __future__ import annotations

SPACE = "\u2581"


def _byte_alphabet() -> dict[int, int]:
    """GPT-2's byte to character table: printable Latin-1 as itself, the other 68 bytes from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {**{byte: byte for byte in printable}, **{byte: 256 + i for i, byte in enumerate(others)}}


BYTE_TO_CHAR = _byte_alphabet()
CHAR_TO_BYTE = {chr(char): byte for byte, char in BYTE_TO_CHAR.items()}
