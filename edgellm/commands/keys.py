"""The key of `edgellm serve` on a network: short enough to be typed on a phone, and kept between starts."""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

from edgellm.errors import FileError
from edgellm.store.paths import config_file
from edgellm.system.files import Folder

_CONSONANTS = "bdfgjklmnprstvz"
_VOWELS = "aeiou"
_N_WORDS = 3


def make_key() -> str:
    """A key of three invented words, such as `bakol-timur-fesod`: 49 bits, which no client can try out."""
    pattern = (_CONSONANTS, _VOWELS, _CONSONANTS, _VOWELS, _CONSONANTS)
    words = ("".join(map(secrets.choice, pattern)) for _ in range(_N_WORDS))
    return "-".join(words)


def key_file() -> Path:
    """File that keeps the key, beside the configuration."""
    return config_file().with_name("server-key")


def kept_key() -> str:
    """The key of earlier starts, or a new one, which is kept in a file that only its owner can read.

    A folder that cannot be written to leaves the key to this start alone, and a line says so. FileError for a
    file that cannot be read or holds no key.
    """
    path = key_file()
    try:
        key = path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return _keep(path, make_key())
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: the server's key cannot be read ({error}); delete the file.") from None
    if not key:
        raise FileError(f"{path}: the file holds no key; write one into it, or delete it.")
    return key


def _keep(path: Path, key: str) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with Folder(path.parent) as folder:
            folder.write(path.name, f"{key}\n".encode(), new=True)
    except FileExistsError:  # another server began at the same time
        return kept_key()
    except OSError as error:
        print(
            f"edgellm: the key is for this start only, as {path} cannot be written ({error.strerror})",
            file=sys.stderr,
        )
    return key
