"""The parts of Jinja that chat templates need, imported without its package initializer.

`import jinja2` also brings loaders, bytecode caches and, through them, OpenSSL: 4 MB and a third of the
time, on the way to every first token, for things a chat template cannot use. So the submodules are imported
under a bare package that is taken away again; a later `import jinja2` runs the initializer as ever.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING


def _import_parts() -> None:
    spec = importlib.util.find_spec("jinja2")
    if "jinja2" in sys.modules or spec is None or spec.submodule_search_locations is None:
        return  # imported as a whole already, or not installed: the imports below say so
    bare = ModuleType("jinja2")
    bare.__path__ = list(spec.submodule_search_locations)
    bare.__spec__ = spec
    sys.modules["jinja2"] = bare
    try:
        importlib.import_module("jinja2.sandbox")
        importlib.import_module("jinja2.ext")
    finally:
        del sys.modules["jinja2"]


_import_parts()

from jinja2.compiler import CodeGenerator, Frame  # noqa: E402
from jinja2.environment import Template  # noqa: E402
from jinja2.exceptions import SecurityError, TemplateSyntaxError  # noqa: E402
from jinja2.ext import Extension  # noqa: E402
from jinja2.parser import Parser  # noqa: E402
from jinja2.runtime import Context, LoopContext, Macro, Undefined  # noqa: E402
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter  # noqa: E402
from jinja2.utils import Cycler, Joiner, Namespace  # noqa: E402

if TYPE_CHECKING:
    from jinja2 import nodes
else:
    nodes = sys.modules["jinja2.nodes"]

__all__ = [
    "CodeGenerator",
    "Context",
    "Cycler",
    "Extension",
    "Frame",
    "ImmutableSandboxedEnvironment",
    "Joiner",
    "LoopContext",
    "Macro",
    "Namespace",
    "Parser",
    "SandboxedFormatter",
    "SecurityError",
    "Template",
    "TemplateSyntaxError",
    "Undefined",
    "nodes",
]
