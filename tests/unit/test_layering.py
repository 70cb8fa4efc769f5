"""Imports and includes between the parts (docs/architecture.md), in the source and in a running process."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgellm.families.registry import FAMILIES, model_types
from tests.support.paths import ROOT

PACKAGE = ROOT / "edgellm"
NATIVE = ROOT / "native"

# Each part of edgellm and the parts that it may import; `errors` and `system` may be imported by all.
PYTHON: dict[str, set[str]] = {
    "errors": {"system"},
    "system": set(),
    "gguf": set(),
    "device": set(),
    "tokenizer": set(),
    "quant": {"gguf"},
    "program": {"quant"},
    "families": {"program"},
    "chat": {"tokenizer", "store"},
    "backends": {"program", "gguf", "quant"},
    "convert": {"families", "program", "gguf", "quant", "tokenizer", "chat"},
    "engine": {"families", "program", "gguf", "quant", "backends", "device", "tokenizer", "chat", "convert"},
    "benchmark": {"engine", "families", "backends", "device", "program", "gguf"},
    "store": {"device"},
    "api": {"engine", "store", "convert", "device"},
    "server": {"engine", "chat", "tokenizer"},
    "__init__": {"api", "chat", "convert", "engine"},
}
# These may import anything, and nobody may import them.
TOP = {"commands", "cli", "__main__"}
EXTENSION_USERS = (
    "edgellm.backends",
    "edgellm.quant",
    "edgellm.device",
    "edgellm.engine.sampling",
    "edgellm.gguf.mapping",
    "edgellm.gguf.metadata",
    "edgellm.tokenizer.table",
    "edgellm.tokenizer.bpe",
    "edgellm.tokenizer.spm",
    "edgellm.tokenizer.vocabulary",
)

# Each part of native and the parts that it may include, besides itself; what those may include, it may too.
INCLUDES: dict[str, set[str]] = {
    "base": set(),
    "formats": {"base"},
    "kernels": {"formats", "base"},
    "matrix": {"base"},
    "quantize": {"formats", "matrix", "base"},
    "text": {"base"},
    "gguf": {"text", "formats"},
    "api": {"runtime", "gguf", "text"},
    "program": {"formats", "base"},
    "runtime": {"program", "kernels"},
    "python": {"runtime", "matrix", "quantize", "text"},
}

# Never imported on the way from `edgellm run` to a token.
HEAVY = {
    "fastapi",
    "uvicorn",
    "gguf",
    "huggingface_hub",
    "safetensors",
    "matplotlib",
    "torch",
    "transformers",
}


def imports(text: str) -> Iterator[str]:
    """All modules that a source file imports, anywhere in it, also by importlib with a constant name."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield f"{'.' * node.level}{node.module or ''}"
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield name.value


def python_faults(module: str, text: str, parts: set[str]) -> set[str]:
    """Wrong imports of `module`, a dotted name. parts: all parts of edgellm."""
    part = module.split(".")[1] if module.count(".") else "__init__"
    faults = set()
    for name in imports(text):
        if name.startswith("."):
            faults.add(f"{module} imports {name} relatively")
        if not name.startswith("edgellm."):
            continue
        target = name.split(".")[1]
        if target == "_native_kernels":
            faults.add(f"{module} imports the kernels' extension module, which only tests have")
            continue
        if target == "_native":
            if not module.startswith(EXTENSION_USERS):
                faults.add(f"{module} imports the extension module")
            continue
        if target not in parts or target in (part, "errors", "system") or part in TOP:
            continue
        if module == "edgellm.convert" and target == "api":
            continue  # the package is also the function `edgellm.convert`
        if target in TOP or target not in PYTHON.get(part, set()):
            faults.add(f"{module} imports {target}")
    return faults


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def python_parts() -> set[str]:
    return {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }


def test_every_python_part_has_its_rule() -> None:
    assert python_parts() - TOP <= set(PYTHON)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_python_imports(path: Path) -> None:
    assert python_faults(module_name(path), path.read_text(encoding="utf-8"), python_parts()) == set()


@pytest.mark.parametrize(
    ("module", "text", "fault"),
    [
        ("edgellm.gguf.reader", "import edgellm.quant", "imports quant"),
        ("edgellm.gguf.reader", "def f():\n    from edgellm.quant import decode", "imports quant"),
        ("edgellm.gguf.reader", "from edgellm import program", "imports program"),
        ("edgellm.engine.model", "from edgellm.commands.chat import main", "imports commands"),
        ("edgellm.chat.template", "from ..gguf import reader", "relatively"),
        (
            "edgellm.families.llama",
            "import importlib\nimportlib.import_module('edgellm.engine')",
            "imports engine",
        ),
        ("edgellm.engine.model", "import edgellm._native", "imports the extension module"),
        ("edgellm.engine.model", "from edgellm import _native", "imports the extension module"),
        ("edgellm.backends.native", "from edgellm import _native_kernels", "imports the kernels' extension"),
    ],
)
def test_a_wrong_import_is_found(module: str, text: str, fault: str) -> None:
    parts = set(PYTHON) | TOP
    assert any(fault in found for found in python_faults(module, text, parts))


def test_allowed_imports_are_allowed() -> None:
    parts = set(PYTHON) | TOP
    assert not python_faults("edgellm.quant.simple", "from edgellm.gguf.types import GGMLType", parts)
    assert not python_faults("edgellm.commands.chat", "from edgellm.engine import model", parts)
    assert not python_faults("edgellm.engine.sampling", "import edgellm._native, edgellm.errors", parts)


def native_sources() -> list[Path]:
    return sorted(path for path in NATIVE.rglob("*") if path.suffix in (".h", ".cc", ".inc", ".cpp"))


def native_name(path: Path) -> str:
    return path.relative_to(NATIVE).as_posix()


def reachable(part: str) -> set[str]:
    """Parts that `part` may include: itself, those in the table, and those that they may include."""
    found = {part}
    for other in INCLUDES[part]:
        found |= reachable(other)
    return found


def include_faults(name: str, text: str) -> set[str]:
    """Wrong quoted includes of a native file; `name` is relative to native/."""
    allowed = reachable(name.split("/")[0])
    quoted = re.findall(r'^\s*#\s*include\s*"([^"]+)"', text, re.MULTILINE)
    return {
        f"{name} includes {target}"
        for target in quoted
        if target.split("/")[0] not in allowed or not (NATIVE / target).is_file()
    }


def test_every_native_part_has_its_rule() -> None:
    assert {path.name for path in NATIVE.iterdir() if path.is_dir()} - {"__pycache__"} == set(INCLUDES)


@pytest.mark.parametrize("path", native_sources(), ids=native_name)
def test_native_includes(path: Path) -> None:
    assert include_faults(native_name(path), path.read_text(encoding="utf-8")) == set()


def test_a_wrong_include_is_found() -> None:
    assert include_faults("base/half.h", '#include "formats/formats.h"')
    assert include_faults("runtime/plan.cc", '  #  include "python/module.cc"')
    assert include_faults("runtime/plan.cc", '#include "base/no_such_file.h"')
    assert not include_faults("runtime/plan.cc", '#include "base/half.h"\n#include <vector>')


def family_pattern() -> re.Pattern[str]:
    """Names of families as whole words; llama.cpp, its tools and its bindings are no family."""
    names = sorted({*FAMILIES, *FAMILIES.values(), *model_types()}, reverse=True)
    listed = "|".join(re.escape(name).replace("_", "[_-]?") for name in names)
    return re.compile(rf"(?<![a-z0-9])({listed})(?![a-z0-9])(?![._-](cpp|bench|cli))", re.IGNORECASE)


FAMILY_NAMES = family_pattern()


@pytest.mark.parametrize("path", native_sources(), ids=native_name)
def test_native_code_knows_no_family(path: Path) -> None:
    text = f"{native_name(path)}\n{path.read_text(encoding='utf-8')}"
    assert FAMILY_NAMES.findall(text) == []


# Names that a format or a library has taken from a model: they are values of that format, not families.
FORMAT_NAMES: dict[str, set[str]] = {
    # tokenizer.ggml.model and tokenizer.ggml.pre of GGUF, and models by name where GGUF lacks a field.
    "edgellm.tokenizer": {
        *("gpt2", "gpt-2", "gemma4", "llama", "bert", "glm4", "lfm2", "exaone4", "qwen2", "qwen35"),
        *("hunyuan", "hunyuan-dense", "deepseek-v3", "granite", "phi-3", "phi3"),
        *(
            "bloom",
            "falcon",
            "mpt",
            "exaone",
            "falcon-h1",
            "gemma",
            "modern-bert",
            "nomic-bert",
            "olmo",
            "phi",
            "roberta",
        ),
        "nomic-bert-moe",
    },
    # Names of models in catalogs and examples.
    "edgellm.commands": {"gemma", "qwen3"},
    # A folder of the system.
    "edgellm.commands.service": {"opt"},
    "edgellm.store": {"qwen3"},
    "edgellm.convert": {"gpt2", "gpt-2", "llama", "bert", "qwen2", "qwen35", "deepseek-v3", "falcon"},
    # A method of quantization.
    "edgellm.convert.quantized": {"bitnet"},
    # Tokenizer classes of transformers, and the library mistral-common.
    "edgellm.convert.plain_tokenizers": {"gptneox", "mistral", "mpnet", "roberta"},
    # Forms of tool calls, as the parsers of vLLM are named.
    "edgellm.chat.tools": {"mistral"},
    "edgellm.chat.known": {"mistral"},
}


def family_faults(module: str, text: str) -> set[str]:
    """Names of families in the string constants of a module, apart from docstrings."""
    tree = ast.parse(text)
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    allowed: set[str] = set().union(*(names for m, names in FORMAT_NAMES.items() if module.startswith(m)))
    return {
        found.group(1)
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings
        for found in FAMILY_NAMES.finditer(node.value)
        if found.group(1).lower() not in allowed
    }


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=module_name)
def test_python_outside_families_knows_no_family(path: Path) -> None:
    module = module_name(path)
    if not module.startswith("edgellm.families"):
        assert family_faults(module, path.read_text(encoding="utf-8")) == set()


def test_the_name_of_a_family_is_found() -> None:
    assert family_faults("edgellm.engine.model", 'if architecture == "qwen3moe": pass') == {"qwen3moe"}
    assert family_faults("edgellm.convert.recipes", 'x = f"{y} mixtral"') == {"mixtral"}
    assert family_faults("edgellm.chat.tools", 'x = "gemma3"') == {"gemma3"}
    assert not family_faults("edgellm.chat.tools", 'x = "llama.cpp", "llama-cpp-python", "mistral-list"')
    assert not family_faults("edgellm.engine.model", '"""A file of gemma3."""')


def imported_after(*modules: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after importing `modules`."""
    code = "import sys, json, importlib\n"
    code += f"for name in {list(modules)!r}: importlib.import_module(name)\n"
    code += "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return set(found)


def modules_of(part: str) -> list[str]:
    return [module_name(path) for path in sorted((PACKAGE / part).rglob("*.py"))]


@pytest.mark.parametrize("part", ["gguf", "quant", "program", "families", "tokenizer", "chat", "device"])
def test_no_part_on_the_way_to_a_token_imports_anything_heavy(part: str) -> None:
    assert imported_after("edgellm", *modules_of(part)) & HEAVY == set()


def test_importing_edgellm_loads_next_to_nothing() -> None:
    assert imported_after("edgellm") & (HEAVY | {"numpy", "jinja2", "tokenizers", "typer", "rich"}) == set()


def test_weights_are_read_before_anything_slow_is_imported() -> None:
    """Importing the rest takes as long as packing a small model, so both go on at the same time."""
    found = imported_after(
        "edgellm.cli", "edgellm.commands.run", "edgellm.engine.loading", "edgellm.backends.native"
    )
    assert found & (HEAVY | {"numpy", "jinja2", "tokenizers", "sentencepiece", "rich"}) == set()


def test_the_engine_imports_nothing_heavy() -> None:
    pytest.importorskip("edgellm._native", reason="needs the built extension module")
    assert imported_after("edgellm.api", *modules_of("engine")) & HEAVY == set()
