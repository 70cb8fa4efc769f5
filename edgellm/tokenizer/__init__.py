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

Why the two BPE models are our own code, and not the libraries `tokenizers` and `sentencepiece`: the time to
the first token. From opened metadata to the ids of the first prompt, import included, in one run on two
busy CPUs (median of 4; memory is what the process grew by):

    SmolLM2 (49,152 tokens, 48,900 merges)      ours  60 ms,  6 MB   tokenizers    185 ms,  40 MB
    Llama 3 (128,256 tokens, 280,147 merges)    ours 111 ms, 21 MB   tokenizers    852 ms, 173 MB
    Gemma 3 (262,144 tokens)                    ours 108 ms, 21 MB   sentencepiece 666 ms, 105 MB

(About a third of that where the machine does nothing else.) The difference is `table`: no Python object is
made of a token before it is needed. Long texts go at 0.3 to 5 million characters a second, a thousand times
faster than a small model reads them. The libraries are what the tests compare with, character by character,
and do the rest: WordPiece, Unigram, and what counts as a letter in text that is not ASCII.
"""

from edgellm.tokenizer.stream import StreamDecoder
from edgellm.tokenizer.tokenizer import Tokenizer

__all__ = ["StreamDecoder", "Tokenizer"]
