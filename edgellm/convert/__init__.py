"""Conversion: checkpoints to files. The module itself can be called: `edgellm.convert(source, output)`.

A name cannot be a part of the package and one of its functions otherwise.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Convert(ModuleType):
    """This module, which is also the function `edgellm.convert`."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return importlib.import_module("edgellm.api").convert(*arguments, **options)


sys.modules[__name__].__class__ = _Convert
