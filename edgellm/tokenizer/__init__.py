"""Tokenizers, made from the metadata of a GGUF file.

    tokenizer = Tokenizer.from_metadata(gguf_file.metadata)
    ids = tokenizer.encode("Hello", add_special=True, parse_special=False)

Models (`tokenizer.ggml.model`): `gpt2` (byte-level BPE, cut by the rules that `tokenizer.ggml.pre` names),
`gemma4` (BPE on UTF-8), `llama` (SentencePiece BPE), `bert` (WordPiece), `t5` (Unigram).

Keys of our own, written by the converter where GGUF has no way to say it:

- `edgellm.tokenizer.pre_regexes`: array of strings. Each is an expression (Oniguruma syntax, as in
  tokenizer.json) that is applied to the pieces the one before left; matches become pieces and so does the
  text between them. Takes the place of `tokenizer.ggml.pre`.
- `edgellm.tokenizer.ignore_merges`: bool, with `pre_regexes`: a piece that is a token stays whole
  (default false).
- `edgellm.tokenizer.byte_level`: bool, with `pre_regexes`: GPT-2's byte alphabet (default true); false:
  UTF-8, spaces as U+2581, byte tokens `<0xXX>` for what is missing.
- `edgellm.tokenizer.normalizer`: array of at most one of NFC, NFD, NFKC, NFKD, applied to plain text.
- `edgellm.tokenizer.lstrip_ids`, `edgellm.tokenizer.rstrip_ids`: arrays of ids of special tokens that
  swallow the white space before or after them.
"""

from edgellm.tokenizer.stream import StreamDecoder
from edgellm.tokenizer.tokenizer import Tokenizer

__all__ = ["StreamDecoder", "Tokenizer"]
