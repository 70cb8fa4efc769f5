"""`edgellm convert`: from a checkpoint, of the Hub or in a folder, to one quantized GGUF file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from edgellm.commands import onnx, writing
from edgellm.commands.options import OFFLINE, TEXT, Command, Option, Positional
from edgellm.commands.settings import Settings
from edgellm.convert.adapter import TYPES as ADAPTER_TYPES
from edgellm.convert.adapter import Base, base_of_file, base_of_folder, plan_adapter
from edgellm.convert.checkpoint import Checkpoint
from edgellm.convert.lora import base_named_by, is_adapter, read_adapter
from edgellm.convert.pipeline import FilePlan, Pair, write
from edgellm.convert.recipes import RECIPES, Recipe, recipe
from edgellm.convert.requantize import plan_requantization
from edgellm.convert.source import plan_conversion
from edgellm.convert.writing import Origin, check_output, sha256, weigh
from edgellm.errors import FileError, ModelError, UnsupportedError, UsageError, show
from edgellm.families.registry import supported
from edgellm.gguf.reader import GGUFFile
from edgellm.store.checkpoints import checkpoint_folder, remote_config


def run(settings: Settings) -> int:
    """Convert and print where the file is."""
    if settings["format"] == "onnx":
        return _to_onnx(settings)
    chosen, options = recipe(settings["type"] or "Q4_K_M"), writing.write_options(settings)
    adapter = is_adapter(Path(settings["source"]))
    kind = (settings["type"] or "F32") if adapter else chosen.name
    output = writing.chosen_output(_named(settings), kind, ".gguf", settings)
    if not settings["dry_run"]:
        check_output(output, options)
    if adapter:
        return _convert_adapter(Path(settings["source"]), output, settings)
    if settings["base"] is not None:
        raise UsageError("--base is for adapters, and the source is none; leave it out")
    remote = remote_config(settings["source"])
    if remote is not None:
        # Said before gigabytes are fetched.
        architecture = _supported(settings["source"], remote)
        if settings["dry_run"]:
            kind = show(remote.get("model_type"))
            print(f"{settings['source']}: model type {kind} is supported and makes a file of {architecture}")
            return 0
    checkpoint, plan, revision = _plan(settings, chosen, options.threads)
    if settings["dry_run"]:
        writing.show_plan(plan)
        return 0
    writing.embed_program(plan, settings)
    weigh(plan, output, options, writing.say)
    origin = Origin(_origin(settings, checkpoint, revision), revision, checkpoint.tensors.sha256)
    writing.write(plan, output, options, origin)
    print(output)
    return 0


def _named(settings: Settings) -> str:
    """Name of the source for a file: that of its folder, its file, or its repository."""
    source = settings["source"]
    if Path(source).is_dir():
        return Path(source).resolve().name
    return str(source.partition("@")[0]).split("/")[-1].removesuffix(".gguf")


def _supported(source: str, config: dict[str, Any]) -> str:
    """Architecture of a repository's file; errors name the repository."""
    try:
        return supported(config)
    except (ModelError, UnsupportedError) as error:
        raise type(error)(f"{source}: {error}") from None


def _to_onnx(settings: Settings) -> int:
    """Write a folder with an ONNX model, from a checkpoint or from a GGUF file."""
    folder = writing.chosen_output(_named(settings), settings["type"] or "INT4", "-onnx", settings)
    onnx.check_settings(settings, folder)
    threads, source = writing.n_threads(settings), Path(settings["source"])
    if source.is_file():
        if settings["merge_lora"]:
            raise UsageError("--lora needs a checkpoint as the source, not a GGUF file")
        with GGUFFile.open(source) as file:
            plan = plan_requantization(file, recipe("F32"), threads=threads)
            if settings["name"]:
                plan.metadata["general.name"] = Pair(settings["name"])
            digest = partial(sha256, source)
            onnx.write(plan, settings, folder, threads=threads, source=source.name, digest=digest)
        return 0
    checkpoint, plan, revision = _plan(settings, recipe("F32"), threads)
    onnx.write(
        plan,
        settings,
        folder,
        threads=threads,
        source=_origin(settings, checkpoint, revision),
        revision=revision,
        digest=checkpoint.tensors.sha256,
        checkpoint=checkpoint.folder,
    )
    return 0


def _plan(settings: Settings, chosen: Recipe, threads: int) -> tuple[Checkpoint, FilePlan, str]:
    """Checkpoint of the command line with its adapters, the plan of its file, and its revision."""
    folder, revision = checkpoint_folder(settings["source"])
    checkpoint = Checkpoint(folder)
    for adapter in settings["merge_lora"] or ():
        checkpoint.tensors.add(read_adapter(Path(adapter)))
    name = settings["name"] or (settings["source"].partition("@")[0].split("/")[-1] if revision else None)
    plan = plan_conversion(
        checkpoint, chosen, threads=threads, name=name, overrides=writing.overrides(settings)
    )
    return checkpoint, plan, revision


def _origin(settings: Settings, checkpoint: Checkpoint, revision: str) -> str:
    """Name of the source in the receipt."""
    name: str = settings["source"]
    return name.partition("@")[0] if revision else checkpoint.folder.resolve().name


def _convert_adapter(folder: Path, output: Path, settings: Settings) -> int:
    """Write the adapter's file and print where it is."""
    for name in (
        "merge_lora",
        "tensor_type",
        "calibrate",
        "best",
        "size",
        "bpw",
        "imatrix",
        "fast",
        "min_top1",
        "max_kld",
    ):
        if settings[name]:
            raise UsageError(
                f"{settings.origins[name]}: has no meaning for the adapter {folder}; leave it out"
            )
    asked = (settings["type"] or "F32").upper()
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
    """Base model of an adapter: the given one, or the local folder that its config names."""
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


_TYPE = Option(
    "type",
    ("--type",),
    f"for GGUF one of {', '.join(RECIPES)} (otherwise Q4_K_M); for ONNX INT4 (otherwise) or F32",
    TEXT,
    "TYPE",
)

COMMAND = Command(
    summary="Convert a checkpoint to a quantized GGUF file, or to ONNX.",
    run=run,
    description="Reads a checkpoint in safetensors, a folder or one of the Hub, and writes one GGUF file,\n"
    "with memory for about one tensor. Errors count by what a short text of ours uses; --calibrate reads\n"
    "more and loses less, --best also chooses formats, --fast reads nothing. The result is compared with\n"
    "the source: what it lost is printed, and stored in the file. The folder of a PEFT adapter becomes an\n"
    "adapter in GGUF, in F32 unless --type says otherwise. --format onnx writes a folder for ONNX Runtime,\n"
    "and takes a GGUF file, too: INT4 is 4 bits, 5 for the matrices that need them most, and --best, --size\n"
    "and --bpw choose 4, 5, 6 or 8 for each. ONNX Runtime computes with 5 and 6 as with 8.",
    positionals=(
        Positional(
            "source", "folder of a checkpoint, user/repo[@revision] on the Hub, or for ONNX a GGUF file", "1"
        ),
        Positional("output", "GGUF file, or folder for ONNX, to write; otherwise NAME-TYPE in this folder"),
    ),
    options=(
        Option("format", ("--format",), "what to write", TEXT, default="gguf", choices=("gguf", "onnx")),
        _TYPE,
        *(option for option in writing.OPTIONS if option.name != "type"),
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
        ("edgellm convert checkpoint/ --type Q6_K", "to checkpoint-Q6_K.gguf"),
        ("edgellm convert user/repo model.gguf --type Q8_0", "from the Hub"),
        ("edgellm convert checkpoint/ model.gguf --best", "slower and better"),
        ("edgellm convert checkpoint/ folder --format onnx", "to 4 bits for ONNX Runtime"),
        ("edgellm convert checkpoint/ model.gguf --min-top1 0.95", "fail if too much is lost"),
        ("edgellm convert adapter/ lora.gguf --base checkpoint/", "a LoRA adapter, for --lora"),
    ),
)
