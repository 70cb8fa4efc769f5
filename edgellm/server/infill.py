"""Fill-in-the-middle: a prompt of the code before and after a gap."""

from __future__ import annotations

from collections.abc import Sequence

from edgellm.engine.model import Model
from edgellm.server.errors import RequestError

# Metadata keys, older keys, and the texts of the tokens in vocabularies whose files name none.
# fmt: off
_TOKENS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "prefix": (
        ("fim_pre_token_id", "prefix_token_id"),
        ("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
         "<|code_prefix|>"),
    ),
    "suffix": (
        ("fim_suf_token_id", "suffix_token_id"),
        ("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
         "<|code_suffix|>"),
    ),
    "middle": (
        ("fim_mid_token_id", "middle_token_id"),
        ("<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>",
         "<|code_middle|>"),
    ),
    "file": (("fim_sep_token_id",), ("<|file_sep|>", "<file_sep>")),
    "repository": (
        ("fim_rep_token_id",),
        ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<repo_name>"),
    ),
}
# fmt: on


def fill_in(
    model: Model, before: str, after: str, files: Sequence[tuple[str, str]] = (), name: str = ""
) -> list[int]:
    """The prompt for a gap: prefix token, text before, suffix token, text after, middle token.

    files: (name, text) of other files that come first; name: of this file. Bavarian et al. 2022, "Efficient
    Training of Language Models to Fill in the Middle". RequestError if the model has no tokens for it.
    """
    ids = {part: _token(model, part) for part in _TOKENS}
    prefix, suffix, middle = ids["prefix"], ids["suffix"], ids["middle"]
    if prefix is None or suffix is None or middle is None:
        raise RequestError(
            400,
            "This model has no fill-in-the-middle tokens, so it cannot fill in what comes before a suffix; "
            "use a model that was trained for it, or send the prompt without suffix.",
            param="suffix",
        )
    encode = model.tokenizer.encode
    bos = model.tokenizer.bos_id
    found = [bos] if model.tokenizer.adds_bos and bos is not None else []
    separator = ids["file"]
    if files and ids["repository"] is not None:
        found += [ids["repository"], *encode("project\n", add_special=False)]
    for file_name, text in files:
        head = f"{file_name}\n" if separator is not None else f"\n# {file_name}\n"
        found += [] if separator is None else [separator]
        found += encode(f"{head}{text}", add_special=False)
    if files and separator is not None:
        found += [separator, *encode(f"{name or 'file'}\n", add_special=False)]
    found += [prefix, *encode(before, add_special=False)]
    return [*found, suffix, *encode(after, add_special=False), middle]


def _token(model: Model, part: str) -> int | None:
    keys, texts = _TOKENS[part]
    for key in keys:
        token = model.metadata.get(f"tokenizer.ggml.{key}")
        if isinstance(token, int) and 0 <= token < model.n_vocab:
            return token
    known = (model.tokenizer.token_id(text) for text in texts)
    return next((token for token in known if token is not None), None)
