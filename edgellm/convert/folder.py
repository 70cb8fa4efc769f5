"""The small files of a checkpoint's folder: JSON and text, bounded in size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgellm.errors import FileError, FormatError, size_text

_MAX_JSON_BYTES = 256 << 20


class Folder:
    """The small files of a folder."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileError(f"{folder}: there is no such folder; check the path")
        self.folder = folder

    def json(self, name: str) -> Any:
        """The object in a JSON file of the folder; None if there is no such file."""
        value = self.value(name)
        if value is not None and not isinstance(value, dict):
            raise FormatError(
                f"{self.folder / name}: a {type(value).__name__}, expected an object; download it again"
            )
        return value

    def value(self, name: str) -> Any:
        """The value in a JSON file of the folder; None if there is no such file."""
        text = self.text(name)
        if text is None:
            return None
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise FormatError(
                f"{self.folder / name}: not JSON ({error}), expected an object; download it again"
            ) from None
        if value is None:
            raise FormatError(f"{self.folder / name}: null, expected an object; download it again")
        return value

    def text(self, name: str) -> str | None:
        """The content of a text file of the folder; None if there is no such file."""
        raw = self.bytes(name)
        try:
            return None if raw is None else raw.decode("utf-8-sig")  # editors of Windows write a mark first
        except UnicodeDecodeError:
            raise FormatError(f"{self.folder / name}: not UTF-8, expected text; download it again") from None

    def bytes(self, name: str) -> bytes | None:
        """The content of a file of the folder; None if there is no such file."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            if path.stat().st_size > _MAX_JSON_BYTES:
                raise FormatError(
                    f"{path}: larger than {size_text(_MAX_JSON_BYTES)}, expected a smaller file; check it"
                )
            return path.read_bytes()
        except OSError as error:
            raise FileError(
                f"{path}: the file cannot be read ({error.strerror}); check its permissions"
            ) from None
