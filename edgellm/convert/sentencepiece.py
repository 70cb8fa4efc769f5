"""A tokenizer.model of SentencePiece as GGUF metadata: byte-pair models by their scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from edgellm.convert.pipeline import Pair
from edgellm.errors import FormatError, UnsupportedError
from edgellm.gguf.types import ValueType
from edgellm.tokenizer.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

# Fields of sentencepiece_model.proto (google/sentencepiece).
_TRAINER, _NORMALIZER = 2, 3
_MODEL_TYPE, _DUMMY_PREFIX = 3, 3
_BPE = 2
Added = Mapping[int, tuple[str, bool, bool, bool]]


def read_sentencepiece(
    model: bytes, n_vocab: int, added: Added, settings: Mapping[str, Any]
) -> tuple[dict[str, Pair], Callable[[str], list[int]]]:
    """The metadata, and the library's own encoding of a text without special tokens.

    Raises FormatError for a damaged model, UnsupportedError for one that is not byte-pair encoding.
    """
    import sentencepiece

    from edgellm.convert.vocabulary import Tokens, strip_ids

    library = sentencepiece.SentencePieceProcessor()
    try:
        library.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise FormatError(f"tokenizer.model cannot be read ({error}); download it again") from None
    fields = dict(_fields(model))
    trainer, normalizer = (dict(_fields(fields.get(key, b""))) for key in (_TRAINER, _NORMALIZER))
    if trainer.get(_MODEL_TYPE) != _BPE:
        raise UnsupportedError(
            "tokenizer.model: only byte-pair models are implemented, this one is of another type; "
            "use a checkpoint with tokenizer.json"
        )
    n_pieces = library.GetPieceSize()
    tokens = Tokens(max(n_vocab, 1))
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
        tokens.put(token, library.IdToPiece(token), kind, library.GetScore(token))
    for token, (text, special, _, _) in added.items():
        if token < n_pieces and tokens.types[token] in (UNKNOWN, CONTROL):
            continue
        tokens.put(token, text, CONTROL if special else USER_DEFINED, -1000.0)
    prefix = settings.get("add_prefix_space")
    if not isinstance(prefix, bool):
        prefix = bool(normalizer.get(_DUMMY_PREFIX, 1))
    found = {
        "tokenizer.ggml.model": Pair("llama"),
        "tokenizer.ggml.pre": Pair("default"),
        "tokenizer.ggml.tokens": Pair(tokens.texts, ValueType.STRING),
        "tokenizer.ggml.scores": Pair(tokens.scores, ValueType.FLOAT32),
        "tokenizer.ggml.token_type": Pair(tokens.types, ValueType.INT32),
        "tokenizer.ggml.add_bos_token": Pair(True),
        "tokenizer.ggml.add_eos_token": Pair(False),
    }
    if not prefix:
        found["tokenizer.ggml.add_space_prefix"] = Pair(False)
    return found | strip_ids(added), lambda text: list(library.EncodeAsIds(text))


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
