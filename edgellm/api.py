"""Entry points of the Python API: load a model, convert a checkpoint, quantize a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgellm.engine.adapters import parse_adapter
from edgellm.engine.load_options import DEFAULT_BATCH, DEFAULT_PARALLEL, LoadOptions
from edgellm.engine.model import Model
from edgellm.errors import UsageError
from edgellm.store.resolve import resolve

if TYPE_CHECKING:
    from edgellm.convert.jobs import Written
    from edgellm.convert.writing import WriteOptions


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
    answer together; None uses the trained context, at most 32768 and less where memory is short; 0 uses the
    trained context.
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


def convert(
    source: str | Path,
    output: str | Path,
    *,
    type: str = "Q4_K_M",
    tensor_types: Mapping[str, str] | None = None,
    name: str | None = None,
    lora: Sequence[str | Path] = (),
    calibrate: str | Path | None = None,
    best: bool = False,
    size: int | None = None,
    threads: int | None = None,
    receipt: bool = True,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Convert a checkpoint, a folder or `user/repo[@revision]` on the Hub, to a GGUF file.

    type: the mix of formats (`edgellm convert --help` lists them). tensor_types: formats of tensors whose
    names match a regular expression. name: of the model; None: the source's. lora: PEFT adapters to merge.
    calibrate: a text file by which errors are made up for, or "default": a bundled one alone. best: choose
    formats by it, too, in the bytes that the type takes, or for a file of `size` bytes. receipt: compare the
    result with the source; the figures are stored in the file. on_progress: gets bytes written and bytes in
    all. Returns the path and the receipt. Raises FileError, ModelError, UnsupportedError or UsageError.
    """
    from edgellm.convert.jobs import convert_folder
    from edgellm.store.checkpoints import checkpoint_folder

    folder, revision = checkpoint_folder(str(source))
    origin = str(source).partition("@")[0] if revision else folder.resolve().name
    return convert_folder(
        folder,
        revision,
        Path(output),
        type,
        _write_options(threads, calibrate, best, size, receipt, overwrite),
        name=name or (origin.split("/")[-1] if revision else None),
        source=origin,
        tensor_types=tensor_types or {},
        lora=list(map(Path, lora)),
        say=_quiet,
        report=on_progress or _quiet,
    )


def quantize(
    source: str | Path,
    output: str | Path,
    *,
    type: str = "Q4_K_M",
    tensor_types: Mapping[str, str] | None = None,
    calibrate: str | Path | None = None,
    best: bool = False,
    size: int | None = None,
    threads: int | None = None,
    receipt: bool = True,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write a GGUF file, best one in F32, F16 or BF16, in other formats; parameters as in `convert`."""
    from edgellm.convert.jobs import quantize_file

    return quantize_file(
        Path(source),
        Path(output),
        type,
        _write_options(threads, calibrate, best, size, receipt, overwrite),
        tensor_types=tensor_types or {},
        say=_quiet,
        report=on_progress or _quiet,
    )


def _write_options(
    threads: int | None,
    calibrate: str | Path | None,
    best: bool,
    size: int | None,
    receipt: bool,
    overwrite: bool,
) -> WriteOptions:
    from edgellm.convert.writing import WriteOptions
    from edgellm.device.cores import default_threads

    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; it must be at least 1.")
    return WriteOptions(
        threads=threads or default_threads(),
        calibrate=None if calibrate is None else str(calibrate),
        best=best,
        size=size,
        receipt=receipt,
        overwrite=overwrite,
    )


def _quiet(*_: object) -> None:
    """Say nothing."""
