"""Lines of a text file or of standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from edgellm.errors import FileError, UsageError


def read_text(name: str) -> str:
    """The text of a file, or of standard input for `-`; FileError if it cannot be read as UTF-8."""
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return raw.decode("utf-8-sig")
    except OSError as error:
        raise FileError(f"{name}: cannot be read ({error.strerror}); check its name") from None
    except UnicodeDecodeError as error:
        raise FileError(f"{name}: byte {error.start} is not UTF-8; give a text file in UTF-8") from None


def read_lines(name: str) -> list[str]:
    """Lines with more than spaces in them; UsageError if there is none."""
    lines = [line for line in read_text(name).splitlines() if line.strip()]
    if not lines:
        raise UsageError(f"{name}: holds no text; give a file with a text on each line")
    return lines
