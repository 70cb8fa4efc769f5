"""Build backend of pyproject.toml: scikit-build-core's, after a check of what the compilation needs.

Without it, a missing compiler is found after minutes of downloads, and shows as a log of CMake.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from typing import Any

# Programs that CMake takes for a C++ compiler.
COMPILERS = ("c++", "g++", "clang++", "CC", "icpx")


def get_requires_for_build_wheel(settings: Any = None) -> list[str]:
    """Requirements of a wheel; exits with a sentence if the compilation cannot begin."""
    check()
    from scikit_build_core import build

    return list(build.get_requires_for_build_wheel(settings))


def get_requires_for_build_editable(settings: Any = None) -> list[str]:
    """Requirements of an editable installation; exits as for a wheel."""
    check()
    from scikit_build_core import build

    return list(build.get_requires_for_build_editable(settings))


def __getattr__(name: str) -> Any:
    """The other hooks, which are scikit-build-core's own."""
    from scikit_build_core import build

    return getattr(build, name)


def check() -> None:
    """Exit with a sentence that names a missing compiler or missing headers, and how to install them."""
    missing = lacking()
    if missing:
        what = " and ".join(missing)
        sys.exit(f"edgellm's engine is compiled now, and this machine lacks {what}; {advice(missing)}")


def lacking() -> list[str]:
    """Missing parts of a compilation, in words; none on Windows, where CMake finds compilers off the path."""
    if sys.platform == "win32":
        return []
    missing = []
    chosen = os.environ.get("CXX") or "CMAKE_CXX_COMPILER" in os.environ.get("CMAKE_ARGS", "")
    if not chosen and "CMAKE_TOOLCHAIN_FILE" not in os.environ and not any(map(shutil.which, COMPILERS)):
        missing.append("a C++ compiler (g++ or clang++)")
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        missing.append("Python's headers (Python.h)")
    return missing


def advice(missing: list[str]) -> str:
    """The command that installs what is missing."""
    if sys.platform == "darwin":
        return "install them with: xcode-select --install"
    managers = {
        "apt-get": ("sudo apt install", "g++", "python3-dev"),
        "dnf": ("sudo dnf install", "gcc-c++", "python3-devel"),
        "pacman": ("sudo pacman -S", "gcc", "python"),
        "apk": ("sudo apk add", "g++", "python3-dev"),
    }
    found = next((words for name, words in managers.items() if shutil.which(name)), None)
    if found is None:
        return "install them with your system's packages"
    command, compiler, headers = found
    packages = [headers if "headers" in part else compiler for part in missing]
    return f"install with: {command} {' '.join(packages)}"
