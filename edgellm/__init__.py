"""edgellm runs quantized language models on the hardware people own."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgellm.api import convert, load, quantize
    from edgellm.chat.answers import Message, ToolCall
    from edgellm.convert.jobs import Written
    from edgellm.engine.load_options import LoadOptions
    from edgellm.engine.model import Model
    from edgellm.engine.options import GenerateOptions
    from edgellm.engine.session import Generation
    from edgellm.errors import (
        BackendError,
        ContextOverflowError,
        DownloadError,
        EdgeLLMError,
        FileError,
        FormatError,
        MemoryLimitError,
        ModelError,
        OverloadedError,
        TemplateError,
        UnsupportedError,
        UsageError,
    )

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "ContextOverflowError",
    "DownloadError",
    "EdgeLLMError",
    "FileError",
    "FormatError",
    "GenerateOptions",
    "Generation",
    "LoadOptions",
    "MemoryLimitError",
    "Message",
    "Model",
    "ModelError",
    "OverloadedError",
    "TemplateError",
    "ToolCall",
    "UnsupportedError",
    "UsageError",
    "Written",
    "__version__",
    "convert",
    "load",
    "quantize",
]

_MODULES = {
    "GenerateOptions": "edgellm.engine.options",
    "Generation": "edgellm.engine.session",
    "LoadOptions": "edgellm.engine.load_options",
    "Message": "edgellm.chat.answers",
    "Model": "edgellm.engine.model",
    "ToolCall": "edgellm.chat.answers",
    "Written": "edgellm.convert.jobs",
    "load": "edgellm.api",
    "quantize": "edgellm.api",
}


def __getattr__(name: str) -> Any:
    """Import public names at their first use, so that `import edgellm` takes almost no time."""
    if name not in __all__:
        raise AttributeError(f"module 'edgellm' has no attribute {name!r}")
    try:
        if name == "convert":
            return importlib.import_module("edgellm.convert")  # a module that can be called
        return getattr(importlib.import_module(_MODULES.get(name, "edgellm.errors")), name)
    except ImportError:
        from edgellm.errors import missing_engine

        if not (sentence := missing_engine()):
            raise
        raise ImportError(sentence) from None


def __dir__() -> list[str]:
    return sorted(__all__)
