// SPDX-License-Identifier: MIT
// Sets of Unicode characters, as regular expressions name them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace edgellm {

class CharSet {
  public:
    // The set of a name: a general category (L, Lu, ...), a script (Han, ...), `space`, `word`; nullopt for
    // others.
    static std::optional<CharSet> named(std::string_view name);

    void add(char32_t first, char32_t last);
    void add(const CharSet& other);
    void invert();
    void intersect(const CharSet& other);

    bool has(char32_t c) const { return c < 256 ? (latin_[c / 64] >> (c % 64) & 1) != 0 : has_beyond(c); }
    // Adds the other case of the ASCII letters, and the two characters beyond ASCII that fold to one.
    void ignore_case();

  private:
    using Run = std::pair<char32_t, char32_t>;  // first and last

    void settle();
    bool has_beyond(char32_t c) const;

    std::vector<Run> runs_;  // apart from each other, in order
    std::array<uint64_t, 4> latin_{};
};

}  // namespace edgellm
