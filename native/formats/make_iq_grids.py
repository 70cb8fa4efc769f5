"""Writes the grids of the IQ formats for Python and for C++, from the tables of the `gguf` package.

    python native/formats/make_iq_grids.py            writes both files
    python native/formats/make_iq_grids.py --check    exits 1 if one of them differs

A grid is a set of points whose coordinates are few levels, in ascending order of the number whose
digits (base: the number of levels, first coordinate lowest) say which level each coordinate has. So
the set is enough: one bit for each possible point, and a point's index is how many come before it.
"""

from __future__ import annotations

import base64
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import quants

ROOT = Path(__file__).resolve().parents[2]
PYTHON_FILE = ROOT / "edgellm" / "quant" / "iq_grids.py"
CPP_FILE = ROOT / "native" / "formats" / "iq_grids.h"

GRIDS = {
    "iq2_xxs": Kind.IQ2_XXS,
    "iq2_xs": Kind.IQ2_XS,
    "iq2_s": Kind.IQ2_S,
    "iq3_xxs": Kind.IQ3_XXS,
    "iq3_s": Kind.IQ3_S,
    "iq1_s": Kind.IQ1_S,
}

PYTHON_HEAD = '''"""The grids of the IQ formats. Written by native/formats/make_iq_grids.py, not by hand.

A grid is a set of points whose coordinates are few levels, in ascending order of the number whose
digits (base: the number of levels, first coordinate lowest) say which level each coordinate has. It is
stored as one bit for each possible point, lowest bit first, in base 85.
"""

from __future__ import annotations

from base64 import b85decode
from functools import cache

import numpy as np
from numpy.typing import NDArray

# Per grid: coordinates of a point, their levels, and the bits.
_GRIDS: dict[str, tuple[int, tuple[int, ...], str]] = {
'''

PYTHON_TAIL = '''}


@cache
def grid(name: str) -> NDArray[np.float32]:
    """The points of a grid in order: (n_points, n_coordinates) float32, read-only; KeyError if unknown."""
    n_coordinates, levels, bits = _GRIDS[name]
    packed = np.frombuffer(b85decode(bits), np.uint8)
    numbers = np.flatnonzero(np.unpackbits(packed, bitorder="little"))
    digits = numbers[:, None] // len(levels) ** np.arange(n_coordinates) % len(levels)
    points: NDArray[np.float32] = np.array(levels, np.float32)[digits]
    points.flags.writeable = False
    return points
'''

CPP_HEAD = """// SPDX-License-Identifier: MIT
// The grids of the IQ formats. Written by native/formats/make_iq_grids.py, not by hand.
//
// A grid is a set of points whose coordinates are few levels, in ascending order of the number whose digits
// (base: the number of levels, first coordinate lowest) say which level each coordinate has. Stored as one
// bit for each possible point, lowest bit of the first word first, and expanded by the compiler.
//
// Each table entry is one point, a signed byte per coordinate, the first in the lowest byte.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace edgellm {

namespace iq_grids_detail {

template <typename Point, size_t n_points, size_t n_levels, size_t n_words>
constexpr std::array<Point, n_points> expand(const int8_t (&levels)[n_levels],
                                             const uint64_t (&bits)[n_words]) {
    std::array<Point, n_points> points{};
    size_t n = 0;
    for (size_t number = 0; number < n_words * 64; ++number) {
        if (!(bits[number / 64] >> (number % 64) & 1)) continue;
        size_t digits = number;
        Point point = 0;
        for (size_t i = 0; i < sizeof(Point); ++i) {
            point |= static_cast<Point>(static_cast<uint8_t>(levels[digits % n_levels])) << (8 * i);
            digits /= n_levels;
        }
        points[n++] = point;
    }
    return points;
}

"""

CPP_TAIL = "}  // namespace edgellm\n"


def bitmap(kind: Kind) -> tuple[int, tuple[int, ...], bytes, int]:
    """Coordinates per point, levels, bits and number of points of a grid of the `gguf` package."""
    codec: Any = quants._type_traits[kind]
    codec.init_grid()
    levels = tuple(int(level) for level in codec.grid_map)
    points = codec.grid.reshape(codec.grid_shape).astype(np.int64)
    digits = np.searchsorted(levels, points)
    if not (np.array(levels)[digits] == points).all():
        raise SystemExit(f"{kind.name}: a coordinate is none of the levels {levels}")
    numbers = (digits * len(levels) ** np.arange(points.shape[1])).sum(axis=1)
    if not (np.diff(numbers) > 0).all():
        raise SystemExit(f"{kind.name}: the points are not in ascending order, so a set cannot hold them")
    bits = np.zeros(len(levels) ** points.shape[1], np.uint8)
    bits[numbers] = 1
    return points.shape[1], levels, np.packbits(bits, bitorder="little").tobytes(), len(points)


def python_text() -> str:
    """The Python module."""
    entries = []
    for name, kind in GRIDS.items():
        width, levels, bits, _ = bitmap(kind)
        lines = textwrap.wrap(base64.b85encode(bits).decode(), 96)
        text = "\n".join(f'        "{line}"' for line in lines)
        entries.append(f'    "{name}": (\n        {width},\n        {levels},\n{text},\n    ),\n')
    return PYTHON_HEAD + "".join(entries) + PYTHON_TAIL


def cpp_text() -> str:
    """The C++ header."""
    data, tables = [], []
    for name, kind in GRIDS.items():
        width, levels, bits, n_points = bitmap(kind)
        words = np.frombuffer(bits + bytes(-len(bits) % 8), "<u8")
        values = ", ".join(f"{word:#x}" for word in words)
        wrapped = "\n".join("    " + line for line in textwrap.wrap(values, 106))
        data.append(f"inline constexpr int8_t {name}_levels[] = {{{', '.join(map(str, levels))}}};\n")
        data.append(f"inline constexpr uint64_t {name}_bits[] = {{\n{wrapped}}};\n\n")
        point = f"uint{8 * width}_t"
        detail = f"iq_grids_detail::{name}"
        tables.append(
            f"inline constexpr std::array<{point}, {n_points}> {name}_grid =\n"
            f"    iq_grids_detail::expand<{point}, {n_points}>({detail}_levels, {detail}_bits);\n"
        )
    close = "}  // namespace iq_grids_detail\n\n"
    return (
        CPP_HEAD
        + "// clang-format off\n"
        + "".join(data)
        + "// clang-format on\n\n"
        + close
        + "".join(tables)
        + "\n"
        + CPP_TAIL
    )


def main() -> int:
    """Write or check the two files."""
    check = sys.argv[1:] == ["--check"]
    stale = 0
    for path, text in ((PYTHON_FILE, python_text()), (CPP_FILE, cpp_text())):
        if not check:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            print(f"{path}: differs from what {Path(__file__).name} writes; run it", file=sys.stderr)
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
