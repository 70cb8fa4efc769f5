// SPDX-License-Identifier: MIT
#include "text/strings.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <random>
#include <stdexcept>

namespace edgellm {
namespace {

uint64_t read_length(const uint8_t* data) {
    uint64_t value = 0;
    for (size_t i = 0; i < kStringLengthBytes; ++i) value |= uint64_t{data[i]} << (8 * i);
    return value;
}

constexpr uint64_t kPrime = (uint64_t{1} << 61) - 1;

// a * b modulo 2^61 - 1, not fully reduced: below 2^61 + 4. a below 2^62, b below 2^61.
uint64_t multiply(uint64_t a, uint64_t b) {
#if defined(__SIZEOF_INT128__)
    const auto product = static_cast<unsigned __int128>(a) * b;
    const uint64_t sum = static_cast<uint64_t>(product & kPrime) + static_cast<uint64_t>(product >> 61);
    return (sum & kPrime) + (sum >> 61);
#else
    // b in pieces of 31 and 30 bits, the upper one first: a * 2^31 modulo 2^61 - 1 is a rotation.
    const auto reduce = [](uint64_t v) { return (v & kPrime) + (v >> 61); };
    const auto times_31_bits = [&reduce](uint64_t x, uint64_t piece) {
        const uint64_t low = (x & 0xffffffff) * piece, high = (x >> 32) * piece;
        return reduce(reduce(low) + reduce((high & 0x1fffffff) << 32) + (high >> 29));
    };
    const uint64_t upper = times_31_bits(a, b >> 31);
    const uint64_t shifted = reduce(((upper & 0x3fffffff) << 31) + (upper >> 30));
    return reduce(shifted + times_31_bits(a, b & 0x7fffffff));
#endif
}

constexpr size_t kWordBytes = 7;  // so that a word is below the prime
constexpr size_t kAtOnce = 16;    // strings whose slots are fetched ahead

// Number made of n <= kWordBytes bytes.
uint64_t read_word(const char* text, size_t n) {
    uint64_t word = 0;
    for (size_t i = 0; i < n; ++i) word |= uint64_t{static_cast<uint8_t>(text[i])} << (8 * i);
    return word;
}

// Spreads a number over 64 bits: texts that differ in a digit must not take neighbouring slots.
uint64_t spread(uint64_t x) {
    x = (x ^ (x >> 32)) * 0x9E3779B97F4A7C15;
    return x ^ (x >> 32);
}

// Tag of a hash; its low bits choose the slot.
uint32_t tag_of(uint64_t hash) {
    return static_cast<uint32_t>(hash >> 32);
}

uint64_t random_seed() {
    std::random_device device;
    return ((uint64_t{device()} << 32) | device()) % (kPrime - 1) + 1;
}

}  // namespace

StringWalk skip_strings(const uint8_t* data, size_t n_bytes, size_t position, size_t count) {
    StringWalk walk{0, position};
    while (walk.n < count && n_bytes - walk.position >= kStringLengthBytes) {
        const uint64_t length = read_length(data + walk.position);
        if (length > n_bytes - walk.position - kStringLengthBytes) break;
        walk.position += kStringLengthBytes + length;
        ++walk.n;
    }
    return walk;
}

StringTable::StringTable(const uint8_t* data, size_t n_bytes, size_t position, size_t count)
    : seed_(random_seed()) {
    const StringWalk walk = skip_strings(data, n_bytes, position, count);
    if (walk.n < count) throw std::invalid_argument("a string leaves the data");
    const size_t total = walk.position - position - count * kStringLengthBytes;
    if (total > UINT32_MAX || count >= UINT32_MAX)
        throw std::invalid_argument("more strings than 32 bits count");
    bytes_.resize(total);
    ends_.reserve(count + 1);
    ends_.push_back(0);
    slots_.resize(std::bit_ceil(count + count / 2 + 2));
    for (size_t first = 0; first < count; first += kAtOnce) {
        const size_t last = std::min(count, first + kAtOnce);
        uint64_t hashes[kAtOnce];
        for (size_t i = first; i < last; ++i) {
            const uint64_t length = read_length(data + position);
            std::copy_n(data + position + kStringLengthBytes, length, bytes_.data() + ends_[i]);
            position += kStringLengthBytes + length;
            ends_.push_back(static_cast<uint32_t>(ends_[i] + length));
            longest_ = std::max(longest_, static_cast<size_t>(length));
            hashes[i - first] = hash(at(i));
            __builtin_prefetch(&slots_[hashes[i - first] & (slots_.size() - 1)]);
        }
        for (size_t i = first; i < last; ++i) {
            const std::string_view text = at(i);
            Slot& slot = slots_[slot_of(text, hashes[i - first])];
            if (slot.number == 0) {
                slot = {tag_of(hashes[i - first]), static_cast<uint32_t>(i + 1)};
            } else if (!text.empty() && !repeated_) {
                repeated_ = {slot.number - 1, i};
            }
        }
    }
}

int64_t StringTable::find(std::string_view text) const {
    if (text.size() > longest_) return -1;
    return int64_t{slots_[slot_of(text, hash(text))].number} - 1;
}

// A polynomial of the text's words at a random place: no file can be made to collide (Carter, Wegman 1979).
uint64_t StringTable::hash(std::string_view text) const {
    uint64_t sum = text.size();
    size_t i = 0;
    for (; i + kWordBytes < text.size(); i += kWordBytes)
        sum = multiply(sum, seed_) + read_word(text.data() + i, kWordBytes);
    return spread(multiply(multiply(sum, seed_) + read_word(text.data() + i, text.size() - i), seed_));
}

size_t StringTable::slot_of(std::string_view text, uint64_t hash) const {
    const size_t mask = slots_.size() - 1;
    size_t i = hash & mask;
    while (slots_[i].number != 0 && (slots_[i].tag != tag_of(hash) || at(slots_[i].number - 1) != text))
        i = (i + 1) & mask;
    return i;
}

}  // namespace edgellm
