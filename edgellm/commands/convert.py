"""`edgellm convert`: a checkpoint from the Hub, or a folder, to one quantized GGUF file."""

from __future__ import annotations

import re
from pathlib import Path

from edgellm.commands import writing
from edgellm.commands.options import OFFLINE, TEXT, Command, Option, Positional
from edgellm.commands.settings import Settings
from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.lora import read_adapter
from edgellm.convert.recipes import recipe
from edgellm.convert.source import plan_conversion
from edgellm.errors import DownloadError, FileError, UsageError

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
    folder, revision = _find(settings["source"])
    checkpoint = Checkpoint(folder)
    for adapter in settings["lora"] or ():
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
    "and stored in the file.",
    positionals=(
        Positional("source", "folder of a checkpoint, or user/repo[@revision] on the Hub", "1"),
        Positional("output", "GGUF file to write", "1"),
    ),
    options=(
        *writing.OPTIONS,
        Option("name", ("--name",), "name of the model; otherwise that of the folder", TEXT, "NAME"),
        Option(
            "lora",
            ("--lora",),
            "folder of a PEFT adapter to merge (may repeat)",
            TEXT,
            "FOLDER",
            repeated=True,
        ),
        OFFLINE,
    ),
    examples=(
        ("edgellm convert checkpoint/ model.gguf", "to Q4_K_M"),
        ("edgellm convert user/repo model.gguf --type Q8_0", "from the Hub"),
        ("edgellm convert checkpoint/ model.gguf --min-top1 0.95", "fail if too much is lost"),
    ),
)
