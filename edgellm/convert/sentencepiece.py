"""A tokenizer.model of SentencePiece as GGUF metadata: byte-pair models by their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edgellm.convert.pipeline import Pair
from edgellm.convert.tokens import Added, Tokens, matching_ids
from edgellm.errors import FormatError, MissingPackageError, show
from edgellm.gguf.types import ValueType
from edgellm.tokenizer.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED

# Fields of sentencepiece_model.proto (google/sentencepiece).
_TRAINER, _NORMALIZER = 2, 3
_MODEL_TYPE, _DUMMY_PREFIX = 3, 3
_BPE = 2


def is_byte_pairs(model: bytes) -> bool:
    """True for a SentencePiece model of byte pairs; other kinds, and other files of that name, are none."""
    try:
        trainer = dict(_fields(dict(_fields(model)).get(_TRAINER, b"")))
    except FormatError:
        return False
    return bool(trainer.get(_MODEL_TYPE) == _BPE)


def read_sentencepiece(
    model: bytes, n_vocab: int, added: Mapping[int, Added]
) -> tuple[dict[str, Pair], Callable[[str], list[int]]]:
    """The metadata, and the library's own encoding of a text without special tokens.

    Raises FormatError for a damaged model.
    """
    try:
        import sentencepiece
    except ModuleNotFoundError:
        raise MissingPackageError("A checkpoint with tokenizer.model alone", "sentencepiece") from None

    library = sentencepiece.SentencePieceProcessor()
    try:
        library.LoadFromSerializedProto(model)
        pieces = [library.IdToPiece(token) for token in range(library.GetPieceSize())]
    except (RuntimeError, UnicodeDecodeError) as error:
        raise FormatError(f"tokenizer.model cannot be read ({show(str(error))}); download it again") from None
    normalizer = dict(_fields(dict(_fields(model)).get(_NORMALIZER, b"")))
    n_pieces = len(pieces)
    tokens = Tokens(n_vocab)
    for token in range(min(n_pieces, n_vocab)):
        kind = NORMAL
        if library.IsUnknown(token):
            kind = UNKNOWN
        elif library.IsControl(token):
            kind = CONTROL
        elif library.IsUnused(token):
            kind = UNUSED
        elif library.IsByte(token):
            kind = BYTE
        tokens.put(token, pieces[token], kind, library.GetScore(token))
    for token, entry in added.items():
        if token < n_pieces and tokens.types[token] in (UNKNOWN, CONTROL):
            continue
        tokens.put(token, entry.text, entry.kind, -1000.0)
    found = {
        "tokenizer.ggml.model": Pair("llama"),
        "tokenizer.ggml.pre": Pair("default"),
        "tokenizer.ggml.tokens": Pair(tokens.texts, ValueType.STRING),
        "tokenizer.ggml.scores": Pair(tokens.scores, ValueType.FLOAT32),
        "tokenizer.ggml.token_type": Pair(tokens.types, ValueType.INT32),
        "tokenizer.ggml.add_space_prefix": Pair(bool(normalizer.get(_DUMMY_PREFIX, 1))),
    }
    return found | matching_ids(added), lambda text: list(library.EncodeAsIds(text))


def _fields(message: bytes | int) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: numbers, and bytes of nested messages (the last of each wins)."""
    if isinstance(message, int):
        raise FormatError("tokenizer.model is damaged; download it again")
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire == 2:
            size, position = _varint(message, position)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise FormatError("tokenizer.model is damaged; download it again")
        yield number, message[position : position + size]
        position += size


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise FormatError("tokenizer.model is damaged; download it again")
