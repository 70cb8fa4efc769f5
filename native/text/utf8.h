// SPDX-License-Identifier: MIT
// UTF-8 and its characters.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace edgellm {

// Bytes of the character that starts with `lead`; 1 for a byte that starts none.
constexpr size_t utf8_length(uint8_t lead) {
    return lead >= 0xf0 && lead < 0xf8 ? 4 : lead >= 0xe0 ? (lead < 0xf0 ? 3 : 1) : lead >= 0xc0 ? 2 : 1;
}

// The character at `position` < text.size(), which moves behind it. A byte that is no part of one is U+FFFD.
char32_t next_character(std::string_view text, size_t* position);

std::u32string decode_utf8(std::string_view text);
void append_utf8(std::string* text, char32_t character);

// Bytes at the end of `text` that may be the begin of a character.
size_t unfinished_bytes(std::string_view text);
// The text with U+FFFD in the place of each byte sequence that is not UTF-8.
std::string valid_utf8(std::string_view text);

}  // namespace edgellm
