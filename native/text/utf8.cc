// SPDX-License-Identifier: MIT
#include "text/utf8.h"

#include <algorithm>

namespace edgellm {
namespace {

constexpr char32_t kReplacement = 0xfffd;

uint8_t byte_at(std::string_view text, size_t position) {
    return static_cast<uint8_t>(text[position]);
}

// The second byte that may follow a lead, from low to high (Unicode, table 3-7).
void second_bounds(uint8_t lead, uint8_t* low, uint8_t* high) {
    *low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    *high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
}

// Bytes from `position` on that begin a character, and those that it takes; 0 of a byte that begins none.
size_t well_formed(std::string_view text, size_t position, size_t* wanted) {
    const uint8_t lead = byte_at(text, position);
    if (lead < 0x80) return *wanted = 1;
    *wanted = lead < 0xc2 || lead > 0xf4 ? 0 : utf8_length(lead);
    if (*wanted == 0) return 0;
    uint8_t low, high;
    second_bounds(lead, &low, &high);
    size_t n = 1;
    while (n < *wanted && position + n < text.size()) {
        const uint8_t b = byte_at(text, position + n);
        if (b < (n == 1 ? low : 0x80) || b > (n == 1 ? high : 0xbf)) break;
        ++n;
    }
    return n;
}

}  // namespace

char32_t next_character(std::string_view text, size_t* position) {
    size_t wanted;
    const size_t n = well_formed(text, *position, &wanted);
    const size_t begin = *position;
    *position += std::max<size_t>(n, 1);
    if (n == 0 || n < wanted) return kReplacement;
    if (n == 1) return byte_at(text, begin);
    char32_t c = byte_at(text, begin) & (0x7f >> n);
    for (size_t i = 1; i < n; ++i) c = c << 6 | (byte_at(text, begin + i) & 0x3f);
    return c;
}

std::u32string decode_utf8(std::string_view text) {
    std::u32string characters;
    characters.reserve(text.size());
    for (size_t i = 0; i < text.size();) characters += next_character(text, &i);
    return characters;
}

void append_utf8(std::string* text, char32_t c) {
    if (c < 0x80) {
        *text += static_cast<char>(c);
        return;
    }
    const int n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    *text += static_cast<char>((0xf00 >> n & 0xff) | (c >> (6 * (n - 1))));
    for (int i = n - 2; i >= 0; --i) *text += static_cast<char>(0x80 | (c >> (6 * i) & 0x3f));
}

size_t unfinished_bytes(std::string_view text) {
    for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
        const uint8_t b = byte_at(text, text.size() - back);
        if ((b & 0xc0) == 0x80) continue;
        size_t wanted;
        const size_t n = well_formed(text, text.size() - back, &wanted);
        return n == back && n < wanted ? back : 0;
    }
    return 0;
}

std::string valid_utf8(std::string_view text) {
    std::string result;
    for (size_t i = 0; i < text.size();) append_utf8(&result, next_character(text, &i));
    return result;
}

}  // namespace edgellm
