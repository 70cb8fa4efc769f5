// SPDX-License-Identifier: MIT
// Strings of a GGUF array, in place: each a length of 8 bytes, little-endian, and then its bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace edgellm {

constexpr size_t kStringLengthBytes = sizeof(uint64_t);

// Result of a walk over strings: `n` of them were whole, the last ends at `position`.
struct StringWalk {
    size_t n;
    size_t position;
};

// Walks over at most `count` strings that start at `position` <= n_bytes; stops before one that leaves the
// data.
StringWalk skip_strings(const uint8_t* data, size_t n_bytes, size_t position, size_t count);

// A copy of an array's strings that finds the lowest index of a text. Made in a few milliseconds for a
// vocabulary of 262,144 tokens; takes the strings' bytes and 16 to 28 bytes more for each.
class StringTable {
  public:
    // Throws std::invalid_argument if a string leaves the data, or if bytes or strings are too many for 32
    // bits.
    StringTable(const uint8_t* data, size_t n_bytes, size_t position, size_t count);

    size_t size() const { return ends_.size() - 1; }
    size_t longest() const { return longest_; }
    // The string at `index` < size().
    std::string_view at(size_t index) const {
        return {bytes_.data() + ends_[index], ends_[index + 1] - ends_[index]};
    }
    // The lowest index of `text`, -1 if it is not in the table.
    int64_t find(std::string_view text) const;
    // Indices of the first string, not empty, that occurs again, and of its second occurrence.
    std::optional<std::pair<size_t, size_t>> repeated() const { return repeated_; }

  private:
    struct Slot {
        uint32_t tag;     // part of the string's hash: differs from nearly all others'
        uint32_t number;  // index + 1; 0: the slot is free
    };

    uint64_t hash(std::string_view text) const;
    // The slot of `text`, or the free one for it. hash: that of the text.
    size_t slot_of(std::string_view text, uint64_t hash) const;

    uint64_t seed_;
    std::vector<char> bytes_;
    std::vector<uint32_t> ends_;  // string i is bytes_[ends_[i], ends_[i + 1])
    std::vector<Slot> slots_;     // a power of two of them, at most 2/3 taken
    size_t longest_ = 0;
    std::optional<std::pair<size_t, size_t>> repeated_;
};

}  // namespace edgellm
