"""Write native/text/unicode_tables.h: the classes of characters that pre-tokenizers' expressions name.

    python native/text/make_unicode.py > native/text/unicode_tables.h

Needs the `tokenizers` library: its matcher (Oniguruma) is asked for every character, so that the tables say
the same as the reference.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

CATEGORIES = (
    *(
        "Lu",
        "Ll",
        "Lt",
        "Lm",
        "Lo",
        "Mn",
        "Mc",
        "Me",
        "Nd",
        "Nl",
        "No",
        "Pc",
        "Pd",
        "Ps",
        "Pe",
        "Pi",
        "Pf",
        "Po",
    ),
    *("Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co"),
)
OTHERS = {
    "space": r"\s",
    "word": r"\w",
    "Han": r"\p{Han}",
    "Hiragana": r"\p{Hiragana}",
    "Katakana": r"\p{Katakana}",
    "Hangul": r"\p{Hangul}",
    "Arabic": r"\p{Arabic}",
    "Cyrillic": r"\p{Cyrillic}",
    "Greek": r"\p{Greek}",
    "Latin": r"\p{Latin}",
    "Thai": r"\p{Thai}",
}
END = 0x110000
WIDTH = 112


def ranges(expression: str) -> Iterator[tuple[int, int]]:
    """Runs [first, end) of the characters that match; surrogates, which no text holds, match nothing."""
    splitter = Split(Regex(f"{expression}+"), "removed", invert=True)
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, END)]))

    def code(index: int) -> int:
        return index if index < 0xD800 else index + 0x800

    for _, (start, end) in splitter.pre_tokenize_str(text):
        first, last = code(start), code(end - 1)
        if first < 0xD800 <= last:
            yield first, 0xD800
            first = 0xE000
        yield first, last + 1


def lines(items: list[str]) -> Iterator[str]:
    """Items separated by commas, in lines of the formatter's width."""
    line = "   "
    for item in items:
        if len(line) + len(item) + 2 > WIDTH:
            yield line
            line = "   "
        line += f" {item},"
    yield line


def main() -> None:
    out = sys.stdout
    out.write("// SPDX-License-Identifier: MIT\n// Written by make_unicode.py.\n#pragma once\n\n")
    out.write("// clang-format off\n#include <cstdint>\n\nnamespace edgellm::unicode {\n\n")
    names = "\n".join(lines([f"k{name}" for name in CATEGORIES]))
    out.write(f"enum Category : uint8_t {{\n{names}\n    kUnassigned,\n}};\n")
    runs = sorted(
        (first, end, number)
        for number, name in enumerate(CATEGORIES)
        for first, end in ranges(rf"\p{{{name}}}")
    )
    unassigned = len(CATEGORIES)
    starts: list[tuple[int, int]] = []
    position = 0
    for first, end, number in runs:
        assert first >= position, f"U+{first:04X} has two categories"
        if first > position:
            starts.append((position, unassigned))
        starts.append((first, number))
        position = end
    if position < END:
        starts.append((position, unassigned))
    out.write("\n// First character << 5 | category of each run of one category, in order.\n")
    out.write("constexpr uint32_t kCategoryRuns[] = {\n")
    out.write("\n".join(lines([f"{first << 5 | number:#x}" for first, number in starts])) + "\n};\n")
    for name, expression in OTHERS.items():
        found = [f"{bound:#x}" for pair in ranges(expression) for bound in pair]
        out.write("\n// First character of each run, and the one behind it.\n")
        out.write(f"constexpr uint32_t k{name.capitalize()}[] = {{\n")
        out.write("\n".join(lines(found)) + "\n};\n")
    out.write("\n}  // namespace edgellm::unicode\n")


if __name__ == "__main__":
    main()
