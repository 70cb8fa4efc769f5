"""`edgellm doctor`: facts about this machine, and checks of a model file."""

from __future__ import annotations

import http.client
import importlib.metadata
import importlib.util
import json
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm import __version__
from edgellm.commands.options import JSON, OFFLINE, Command, Positional
from edgellm.commands.settings import Settings
from edgellm.device.cores import read_cores
from edgellm.device.isa import read_isa
from edgellm.device.memory import available_memory, total_memory
from edgellm.device.sensors import read_sensors
from edgellm.errors import EdgeLLMError, one_line, size_text
from edgellm.program.exported import METADATA_FILE
from edgellm.store.catalog import default_model, is_stored, known_models
from edgellm.store.http import Client
from edgellm.store.hub_access import endpoint
from edgellm.store.hub_catalog import suited
from edgellm.store.paths import home, offline_by_environment
from edgellm.store.resolve import resolve

if TYPE_CHECKING:
    from edgellm.commands.fit import Row

_EXTRAS = ("onnxruntime", "llama_cpp", "fastapi", "huggingface_hub", "gguf", "llguidance")
# Seconds that the Hub may take to answer.
HUB_S = 3.0
# Module that each backend needs.
_BACKENDS = {"native": "edgellm._native", "onnx": "onnxruntime", "llama_cpp": "llama_cpp"}
Check = tuple[str, bool, str]


def run(settings: Settings) -> int:
    """Print the findings; 1 if a check of the model file failed."""
    path = resolve(settings["name"], on_disk=True) if settings["name"] else None
    machine = describe_machine(settings["offline"])
    checks = _checks(path) if path else []
    sizes: list[Row] = []
    if path is None:
        sizes, machine["suits"] = _abilities(quiet=settings["json"])
    if settings["json"]:
        from edgellm.commands.fit import flat

        found = [{"check": name, "ok": ok, "found": text} for name, ok, text in checks]
        facts = {**machine, "sizes": [flat(row) for row in sizes], "checks": found}
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return 0 if all(ok for _, ok, _ in checks) else 1
    for label, value in machine.items():
        print(f"{label:<14}{_shown(value)}")
    for name, ok, text in checks:
        print(f"{'ok' if ok else 'FAILED':<14}{name}: {one_line(text)}")
    if sizes:
        from edgellm.commands.fit import print_rows

        print(
            "\nModels at 4 to 5 bits a weight (Q4_K_M) here; `edgellm fit` judges those that have a name.\n"
        )
        print_rows(sizes)
    return 0 if all(ok for _, ok, _ in checks) else 1


def _abilities(*, quiet: bool) -> tuple[list[Row], str | None]:
    """Usual sizes of models here, and the known model that suits, by memory and predicted speed.

    Without rates of the engine there are no sizes, and memory alone chooses.
    """
    fitting = suited(total_memory())
    sizes: list[Row] = []
    try:
        from edgellm.commands.fit import answers_fast, rate_book, usual_sizes

        book = rate_book(quiet=quiet)
        sizes = usual_sizes(book)
        fitting = [model for model in fitting if answers_fast(model, book)]
    except (EdgeLLMError, ImportError) as error:
        print(f"edgellm: no speed is predicted: {one_line(error)}", file=sys.stderr)
    best = next(iter(fitting), None)
    if best is None:
        smallest = default_model()
        return sizes, f"{smallest.name}, {size_text(smallest.size)} (edgellm chat {smallest.name})"
    return sizes, f"{best.name}, about {size_text(best.size)} (edgellm chat {best.name})"


def describe_machine(offline: bool) -> dict[str, Any]:
    """Facts about this machine by label; None for those that cannot be read. Sizes in bytes."""
    cores = read_cores()
    sensors = read_sensors()
    isa = read_isa()
    folder = home()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return {
        "edgellm": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": cores.name,
        "cpus": {
            "online": cores.online,
            "allowed": len(cores.allowed),
            "cores": len(cores.cores),
            "fast": len(cores.fast),
            "quota": cores.quota,
            "threads": cores.default_threads,
        },
        "isa": asdict(isa) if isa else None,
        "memory": {"total": total_memory(), "available": available_memory()},
        "disk": {"folder": str(folder), "free": shutil.disk_usage(existing).free},
        "temperature": sensors.temperature_c,
        "throttled": sensors.throttled_now,
        "backends": [name for name, module in _BACKENDS.items() if importlib.util.find_spec(module)],
        "packages": _versions(),
        "models": [model.name for model in known_models() if is_stored(model)],
        "network": _network(offline),
    }


def _network(offline: bool) -> str:
    """on if the Hub answers."""
    if offline or offline_by_environment():
        return "off"
    try:
        with Client(timeout_s=HUB_S).open(f"{endpoint()}/api/models?limit=1"):
            return "on"
    except (OSError, http.client.HTTPException, ValueError):
        return f"no answer from {endpoint()}"


def _checks(path: Path) -> list[Check]:
    """Checks of a model file, and its fit to this machine if all have passed."""
    from edgellm.commands.fit import model_fit

    checks = list(check_model(path))
    # Speed is predicted for the native engine, which runs no model in ONNX form.
    if all(ok for _, ok, _ in checks) and path.name != METADATA_FILE:
        try:
            fit = model_fit(path)
        except EdgeLLMError as error:
            checks.append(("fit", False, str(error)))
        else:
            checks.append(("fit", fit.fits is not False, fit.sentence()))
    return checks


def check_model(path: Path) -> Iterator[Check]:
    """Checks of a model file, in order; stops where the next one would make no sense."""
    from edgellm.families import build
    from edgellm.gguf.reader import GGUFFile
    from edgellm.program.exported import is_exported
    from edgellm.tokenizer import Tokenizer

    try:
        file = GGUFFile.open(path)
    except EdgeLLMError as error:
        yield "file", False, str(error)
        return
    with file:
        yield (
            "file",
            True,
            f"GGUF {file.version}, {len(file.tensors)} tensors, {size_text(path.stat().st_size)}",
        )
        try:
            shapes = {name: info.shape for name, info in file.tensors.items()}
            program = build(file.metadata, shapes)
            missing = (
                [] if is_exported(file.metadata) else [n for n in program.weights if n not in file.tensors]
            )
            yield (
                "program",
                not missing,
                f"missing tensors {missing[:3]}"
                if missing
                else (f"{program.family}, {program.n_layers} layers, {len(program.ops)} operations"),
            )
        except EdgeLLMError as error:
            yield "program", False, str(error)
        try:
            tokenizer = Tokenizer.from_metadata(file.metadata)
            tokenizer.check()
        except EdgeLLMError as error:
            yield "tokenizer", False, str(error)
            return
        yield "tokenizer", True, ", ".join((f"{tokenizer.n_vocab} tokens", *tokenizer.warnings))
        text = "Hello, wörld! 你好 🙂\n\n  def f(x):\n\treturn x * 42"
        back = tokenizer.decode(tokenizer.encode(text, add_special=False))
        yield (
            "round trip",
            back == text,
            "a text comes back unchanged" if back == text else f"{text!r} -> {back!r}",
        )
        if "edgellm.tokenizer.test_texts" in file.metadata:
            yield _check_vectors(file.metadata, tokenizer)
        yield _check_template(file.metadata, tokenizer)


def _check_vectors(metadata: Any, tokenizer: Any) -> Check:
    """Check that the lines stored by the converter still get the token ids of the source's tokenizer."""
    texts, ids = (metadata.get(f"edgellm.tokenizer.test_{name}") for name in ("texts", "ids"))
    if not isinstance(texts, list) or not isinstance(ids, list) or len(texts) != len(ids):
        return "test lines", False, "the stored lines and ids do not belong together"
    for text, expected in zip(texts, ids, strict=True):
        found = " ".join(map(str, tokenizer.encode(str(text), add_special=False)))
        if found != expected:
            return "test lines", False, f"{str(text)[:60]!r} gets other ids than when the file was made"
    return "test lines", True, f"{len(texts)} lines get the ids they had when the file was made"


def _check_template(metadata: Any, tokenizer: Any) -> Check:
    """Check that the chat template renders a conversation, and keeps a user's text apart from its tokens."""
    from edgellm.chat.template import ChatTemplate

    if "tokenizer.chat_template" not in metadata:
        return "template", True, "none: ChatML is used instead, with a warning"
    controls = sorted(tokenizer.control_texts)
    try:
        template = ChatTemplate.from_metadata(metadata, tokenizer)
        plain = template.encode([{"role": "user", "content": "Hello"}])
        hostile = template.encode([{"role": "user", "content": "Hello" + "".join(controls[:64])}])
    except EdgeLLMError as error:
        return "template", False, str(error)
    special = sum(map(tokenizer.is_special, plain))
    if special != sum(map(tokenizer.is_special, hostile)):
        return "template", False, "text of a message becomes special tokens"
    syntax = template.syntax(tools=True)
    forms = {"learned": "read in the template's own form", "generic": "read in edgellm's generic form"}
    calls = forms.get(syntax.kind, f"read in the form {syntax.kind}, which the template names")
    levels = ", ".join(template.thinking())
    thoughts = (
        f"thoughts end with {syntax.think_end!r} (--think {levels})" if syntax.thinks else "no thoughts"
    )
    return (
        "template",
        True,
        f"renders ({len(plain)} tokens for one word), special tokens cannot be injected; tool calls are "
        f"{calls}; {thoughts}",
    )


def _versions() -> dict[str, str | None]:
    """Versions of the packages that edgellm can use; None for one that is not there."""
    packages = importlib.metadata.packages_distributions()
    return {name: _version(name, packages) for name in _EXTRAS}


def _version(module: str, packages: Mapping[str, list[str]]) -> str | None:
    if importlib.util.find_spec(module) is None:
        return None
    try:
        return importlib.metadata.version(packages.get(module, [module])[0])
    except importlib.metadata.PackageNotFoundError:  # on the path, but not installed
        return "of unknown version"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "-"
    if isinstance(value, int) and not isinstance(value, bool) and value > 1 << 20:
        return size_text(value)
    return "-" if value is None else str(value)


COMMAND = Command(
    summary="Check this machine, and a model file.",
    run=run,
    description="Says what this machine is and has, and what it can run: memory and speed of models of\n"
    "usual sizes, predicted as edgellm fit does (the engine's speed here is measured once, in some\n"
    "seconds). With a model, checks its file, tokenizer and chat template instead, predicts its\n"
    "memory and speed here, and exits with 1 if something is wrong.",
    positionals=(Positional("name", "a model to check: path, name, or user/repo:QUANT"),),
    options=(JSON, OFFLINE),
    examples=(
        ("edgellm doctor", "this machine, and what it can run"),
        ("edgellm doctor model.gguf", "this machine and a model file"),
    ),
)
