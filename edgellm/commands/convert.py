"""`edgellm convert`: a checkpoint from the Hub, or a folder, to one quantized GGUF file."""

from __future__ import annotations

import re
from pathlib import Path

from edgellm.commands import writing
from edgellm.commands.options import OFFLINE, TEXT, Command, Option, Positional
from edgellm.commands.settings import Settings
from edgellm.convert.adapter import TYPES as ADAPTER_TYPES
from edgellm.convert.adapter import Base, base_of_file, base_of_folder, plan_adapter
from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.lora import base_named_by, is_adapter, read_adapter
from edgellm.convert.pipeline import write
from edgellm.convert.recipes import recipe
from edgellm.convert.source import plan_conversion
from edgellm.errors import DownloadError, FileError, UsageError
from edgellm.gguf.reader import GGUFFile

_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
# What a conversion reads; everything else of a repository stays where it is.
_PATTERNS = ("*.safetensors", "*.json", "tokenizer.model", "*.jinja", "1_Pooling/config.json")


def run(settings: Settings) -> int:
    """Convert and print where the file is."""
    output = Path(settings["output"])
    chosen = recipe(settings["type"])
    threads = writing.n_threads(settings)
    if not settings["dry_run"]:
        writing.check_output(output, settings)
    if is_adapter(Path(settings["source"])):
        return _convert_adapter(Path(settings["source"]), output, settings)
    if settings["base"] is not None:
        raise UsageError("--base is for adapters, and the source is none; leave it out")
    folder, revision = _find(settings["source"])
    checkpoint = Checkpoint(folder)
    for adapter in settings["merge_lora"] or ():
        checkpoint.tensors.add(read_adapter(Path(adapter)))
    name = settings["name"] or (settings["source"].partition("@")[0].split("/")[-1] if revision else None)
    plan = plan_conversion(
        checkpoint, chosen, threads=threads, name=name, overrides=writing.overrides(settings)
    )
    if settings["dry_run"]:
        writing.show_plan(plan)
        return 0
    writing.weigh(plan, settings)
    writing.write_with_receipt(
        plan,
        output,
        settings,
        threads=threads,
        source=settings["source"].partition("@")[0] if revision else folder.resolve().name,
        revision=revision,
        digest=checkpoint.tensors.sha256,
    )
    print(output)
    return 0


def _convert_adapter(folder: Path, output: Path, settings: Settings) -> int:
    """Write the adapter's file and print where it is."""
    for name in ("merge_lora", "tensor_type", "calibrate", "imatrix", "min_top1", "max_kld"):
        if settings[name]:
            raise UsageError(
                f"{settings.origins[name]}: has no meaning for the adapter {folder}; leave it out"
            )
    asked = "F32" if settings.origins["type"] == "default" else settings["type"].upper()
    kind = next((kind for kind in ADAPTER_TYPES if kind.name == asked), None)
    if kind is None:
        names = ", ".join(kind.name for kind in ADAPTER_TYPES)
        raise UsageError(f"--type is {asked[:40]!r}, expected one of {names} for an adapter")
    plan = plan_adapter(folder, _base(folder, settings["base"]), kind, name=settings["name"])
    if settings["dry_run"]:
        writing.show_plan(plan)
        return 0
    write(plan, output, threads=writing.n_threads(settings))
    print(output)
    return 0


def _base(folder: Path, given: str | None) -> Base:
    """The model of an adapter: the given one, or the local folder that its config names."""
    path = Path(given or base_named_by(folder) or "")
    if path.is_file():
        with GGUFFile.open(path) as file:
            return base_of_file(file)
    if (given or path.name) and (path / "config.json").is_file():
        return base_of_folder(path)
    raise FileError(
        f"{folder}: its base model {str(given or base_named_by(folder))[:80]!r} is no folder of a checkpoint "
        "here, and no GGUF file; give one with --base"
    )


def _find(source: str) -> tuple[Path, str]:
    """The folder of a checkpoint, fetched if it is one of the Hub, and its revision there (else empty)."""
    if Path(source).is_dir():
        return Path(source), ""
    repository, _, revision = source.partition("@")
    if not _REPOSITORY.fullmatch(repository):
        raise FileError(
            f"{source}: there is no such folder, expected one with config.json or user/repo[@revision]; "
            "check the path"
        )
    return _fetch(repository, revision or None)


def _fetch(repository: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=list(_PATTERNS)))
    except HFValidationError as error:
        raise UsageError(f"{repository}: not a name on the Hub ({error})") from None
    except LocalEntryNotFoundError:
        raise DownloadError(
            f"{repository}: not on disk and the Hub cannot be reached; check the connection, or give a folder"
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise DownloadError(f"{repository}: cannot be fetched ({str(error).splitlines()[0]})") from None
    # The cache names the folder of a snapshot by its commit.
    return folder, folder.name


COMMAND = Command(
    summary="Convert a checkpoint to a quantized GGUF file.",
    run=run,
    description="Reads a checkpoint in safetensors, a folder or one of the Hub, and writes one GGUF file,\n"
    "with memory for about one tensor. The result is compared with the source: what it lost is printed,\n"
    "and stored in the file. The folder of a PEFT adapter becomes an adapter in GGUF, in F32 unless\n"
    "--type says otherwise.",
    positionals=(
        Positional("source", "folder of a checkpoint, or user/repo[@revision] on the Hub", "1"),
        Positional("output", "GGUF file to write", "1"),
    ),
    options=(
        *writing.OPTIONS,
        Option("name", ("--name",), "name of the model; otherwise that of the folder", TEXT, "NAME"),
        Option(
            "merge_lora",
            ("--lora",),
            "folder of a PEFT adapter to merge (may repeat)",
            TEXT,
            "FOLDER",
            repeated=True,
        ),
        Option(
            "base",
            ("--base",),
            "of an adapter: the model it belongs to, a checkpoint's folder or a GGUF file",
            TEXT,
            "PATH",
        ),
        OFFLINE,
    ),
    examples=(
        ("edgellm convert checkpoint/ model.gguf", "to Q4_K_M"),
        ("edgellm convert user/repo model.gguf --type Q8_0", "from the Hub"),
        ("edgellm convert checkpoint/ model.gguf --min-top1 0.95", "fail if too much is lost"),
        ("edgellm convert adapter/ lora.gguf --base checkpoint/", "a LoRA adapter, for --lora"),
    ),
)
