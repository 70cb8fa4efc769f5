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
  swallow the white space before or after them; `edgellm.tokenizer.single_word_ids`: of those that are no
  part of a word.
- `edgellm.tokenizer.prepend_scheme`: "always" or "first", as Metaspace of `tokenizers` means them: a space
  before each part of plain text that does not begin with one, or before the first part alone. Takes the
  place of `tokenizer.ggml.add_space_prefix`.
- `edgellm.tokenizer.before_ids`, `edgellm.tokenizer.after_ids`: arrays of ids of the tokens around a text.
  They take the place of `tokenizer.ggml.add_bos_token` and `add_eos_token`.
- `edgellm.tokenizer.eog_ids`: array of ids of all tokens that end an answer, where GGUF's keys are too few.
- `edgellm.tokenizer.pipeline`: normalizer, pre-tokenizer and model of the `tokenizers` library as JSON, for
  all that has no name above; see `pipeline`.

The two BPE models are our own code, not the libraries `tokenizers` and `sentencepiece`, for the time to the
first token. From opened metadata to the ids of the first prompt, import included, in one run on two
busy CPUs (median of 4; memory is what the process grew by):

    SmolLM2 (49,152 tokens, 48,900 merges)      ours  60 ms,  6 MB   tokenizers    185 ms,  40 MB
    Llama 3 (128,256 tokens, 280,147 merges)    ours 111 ms, 21 MB   tokenizers    852 ms, 173 MB
    Gemma 3 (262,144 tokens)                    ours 108 ms, 21 MB   sentencepiece 666 ms, 105 MB

(About a third of that where the machine does nothing else.) The difference is `table`: no Python object is
made of a token before it is needed. Long texts go at 0.3 to 5 million characters a second, a thousand times
faster than a small model reads them. The tests compare with the libraries, character by character; the
libraries do the rest: WordPiece, Unigram, pipelines, and the classes of characters that are not ASCII.
"""

from edgellm.tokenizer.stream import StreamDecoder
from edgellm.tokenizer.tokenizer import Tokenizer

__all__ = ["StreamDecoder", "Tokenizer"]
