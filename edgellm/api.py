"""`edgellm.load`: the entry point of the Python API."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgellm.engine.adapters import parse_adapter
from edgellm.engine.load_options import DEFAULT_BATCH, DEFAULT_PARALLEL, LoadOptions
from edgellm.engine.model import Model
from edgellm.store.resolve import resolve


def load(
    path: str | Path,
    *,
    threads: int | None = None,
    context: int | None = None,
    vocab_only: bool = False,
    backend: str = "auto",
    kv_type: str = "auto",
    batch: int = DEFAULT_BATCH,
    parallel: int = DEFAULT_PARALLEL,
    cache_tokens: int | None = None,
    isa: str = "",
    draft_max: int | None = None,
    draft: str | Path | None = None,
    max_memory: int | None = None,
    lora: str | Path | Sequence[str | Path | tuple[str | Path, float]] = (),
) -> Model:
    """Load a GGUF model from a path, a name of the catalog (`edgellm list`), or `user/repo:QUANT` on the Hub.

    A named model that is not on disk is fetched, unless `EDGELLM_OFFLINE` or `HF_HUB_OFFLINE` forbids it.

    threads: None uses the physical cores that this process may use. context: tokens of a prompt and its
    answer together; None uses the trained context or 4096, whichever is less; 0 uses the trained context.
    vocab_only: loads only the tokenizer and the chat template. lora: adapters as FILE, FILE=SCALE or (FILE,
    scale), GGUF files or PEFT folders; generations may choose among them (GenerateOptions.lora). See
    LoadOptions for the rest. Raises FileError, FormatError, ModelError, UnsupportedError, MemoryLimitError or
    UsageError; the message says what to do.
    """
    chosen = LoadOptions(
        threads=threads,
        context=context,
        cache_tokens=cache_tokens,
        kv_type=kv_type,
        backend=backend,
        isa=isa,
        draft_max=draft_max,
        draft=None if draft is None else resolve(draft),
        max_memory=max_memory,
        batch=batch,
        parallel=parallel,
        lora=tuple(map(parse_adapter, [lora] if isinstance(lora, (str, Path)) else lora)),
    )
    return Model.load(resolve(path), chosen, vocab_only=vocab_only)
