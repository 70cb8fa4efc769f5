"""Damage to the files of a folder: JSON values, safetensors headers, bytes, names, whole files."""

from __future__ import annotations

import json
import random
import shutil
import struct
from pathlib import Path
from typing import Any

JUNK: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 7, 64, 255, 2**31, 2**40, 2**64, 10**30, 0.5, -0.0, 1e300),
    *(float("inf"), float("nan"), "", "x", "\x00", "\ud800", "a" * 5000, "../x", "model.safetensors"),
    *([], [0], [[]], {}, {"a": 1}, [1, 2, 3], "float16", "F8_E4M3", "I32", "U8", "BPE", "Metaspace"),
    *("<0x41>", "\u2581", "{{ 1", "(", "(a+)+b"),
)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def damage_json(value: Any, rng: random.Random) -> Any:
    """A copy with one place changed, found by a walk at random."""
    if isinstance(value, dict) and value and rng.random() < 0.98:
        key = rng.choice(list(value))
        match rng.randrange(8):
            case 0:
                return {name: inner for name, inner in value.items() if name != key}
            case 1:
                return value | {rng.choice(list(value)): value[key]}
            case _:
                return value | {key: damage_json(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.95:
        at = rng.randrange(len(value))
        match rng.randrange(8):
            case 0:
                return value[:at]
            case 1:
                return value[:at] + value[at : at + 1] * rng.choice((2, 300)) + value[at + 1 :]
            case _:
                return [*value[:at], damage_json(value[at], rng), *value[at + 1 :]]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.5:
        return rng.choice((value + 1, value - 1, -value, value * 2, value // 2 if value == value else 0))
    return rng.choice(JUNK)


def damage_bytes(raw: bytes, rng: random.Random) -> bytes:
    """A copy that is cut, extended, or changed in a few bytes."""
    at = rng.randrange(len(raw) + 1)
    match rng.randrange(5):
        case 0:
            return raw[:at]
        case 1:
            return raw[:at] + rng.randbytes(rng.randrange(1, 40)) + raw[at:]
        case 2:
            return raw[:at] + raw[at + rng.randrange(1, 40) :]
        case _:
            changed = bytearray(raw)
            for _ in range(rng.randrange(1, 6)):
                if changed:
                    changed[rng.randrange(len(changed))] = rng.choice((0, 1, 255, rng.randrange(256)))
            return bytes(changed)


def damage_safetensors(raw: bytes, rng: random.Random) -> bytes:
    """A copy with another header, or with other values."""
    n = int.from_bytes(raw[:8], "little")
    if rng.random() < 0.5:
        changed = bytearray(raw)
        for _ in range(rng.randrange(1, 200)):
            changed[rng.randrange(8 + n, len(raw))] = rng.randrange(256)
        return bytes(changed)
    header = json.loads(raw[8 : 8 + n])
    if rng.random() < 0.2:
        names = list(header)
        one, other = rng.choice(names), rng.choice(names)
        header[one], header[other] = header[other], header[one]
    else:
        header = damage_json(header, rng)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + raw[8 + n :]


def damage_file(path: Path, rng: random.Random) -> None:
    """Damage a file in its own terms, or as bytes, or as a whole."""
    raw = path.read_bytes()
    kind = rng.random()
    if kind < 0.03:
        path.unlink()
        if rng.random() < 0.5:
            path.mkdir()
    elif kind < 0.06:
        path.write_bytes(rng.choice((b"", LFS, b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b"PK\x03\x04")))
    elif kind < 0.2:
        path.write_bytes(damage_bytes(raw, rng))
    else:
        path.write_bytes(_damage_contents(path.suffix, raw, rng))


def _damage_contents(suffix: str, raw: bytes, rng: random.Random) -> bytes:
    try:
        if suffix == ".safetensors":
            return damage_safetensors(raw, rng)
        if suffix == ".json":
            changed = json.loads(raw)
            for _ in range(rng.choice((1, 1, 2, 3))):
                changed = damage_json(changed, rng)
            return json.dumps(changed).encode("utf-8", "surrogatepass")
    except (ValueError, TypeError, RecursionError):  # an earlier damage left the file unreadable
        pass
    return damage_bytes(raw, rng)


def damage_folder(original: Path, folder: Path, rng: random.Random) -> Path:
    """A copy of a folder in `folder` with one to three of its files damaged."""
    copy = folder / "damaged"
    shutil.copytree(original, copy)
    for _ in range(rng.choice((1, 1, 2, 3))):
        files = sorted(path for path in copy.rglob("*") if path.is_file())
        if files:
            damage_file(rng.choice(files), rng)
    return copy
