// SPDX-License-Identifier: MIT
// What every body of the linear kernels starts from. These headers are included by one file per instruction
// set, each compiled with flags of its own, so everything in them has internal linkage.
//
// A set of primitives S works on one register at a time; 64 bytes (16 rows x 4 columns) are S::kParts
// registers.
//   Bytes          codes of kLanes rows x 4 columns
//   Ints, Floats   kLanes = 16 / kParts lanes, a row each
//   kSigned        codes of 8 bits are wanted signed; else + 128, unsigned
//   centre(max, offset)  what sums of unsigned codes up to max are of codes less, a power of two or 0; they
//                  begin at minus that times the sum of the activations
//   multiplier(factor)   QuantTerms::multiplier
//   tables_scales()      where kParts is 1: whether tiles of many tokens take scales from tables
//   (tabled_tile)
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>

#include "base/inline.h"
#include "kernels/linear/pack.h"

namespace edgellm {
namespace {

// A set whose registers are arrays (scalar) defines it empty.
#ifndef EDGELLM_UNROLL
#define EDGELLM_UNROLL _Pragma("GCC unroll 64")
#endif

// Columns in work at a time, in blocks of 32, with codes of that type: what a tile reads of them stays in L1.
template <class Code>
constexpr size_t kChunkBlocks = sizeof(Code) == 1 ? 24 : 16;
constexpr size_t kTableBlocks = 32;                 // of tables of scales; half as many where they are pairs
constexpr size_t kL2Blocks = 64;                    // of a group of tokens with their terms are 370 KB
constexpr size_t kBlockTokens = QuantRows::kGroup;  // that meet an expanded chunk
constexpr size_t kPrefetchBytes = 2048;             // ahead of the block in work, into L1,
constexpr size_t kFarPrefetchBytes = 6144;          // or into L2

// Nothing read through y before this is known after it: keeps a tile's sums out of the registers that dots
// need.
EDGELLM_INLINE void keep_in_memory(float*& y) {
    __asm__ volatile("" : "+r"(y));
}

template <class S, int kSlots>
EDGELLM_INLINE void clear(typename S::Ints (&sums)[kSlots]) {
    EDGELLM_UNROLL
    for (int slot = 0; slot < kSlots; ++slot) sums[slot] = S::zero();
}

// ---- Quantizing activations ----

// The power of two in a factor.
constexpr int exponent_of(int factor) {
    return static_cast<int>(std::bit_width(static_cast<unsigned>(factor))) - 1;
}

// The centre of sets whose sums have room for any: the whole offset, where shifting applies it.
constexpr int exact_centre(int offset) {
    return std::has_single_bit(static_cast<unsigned>(offset)) ? offset : 0;
}

// Of a block's codes: the sums of its first and last 16, and what dots start with.
struct CodeSums {
    int low, high;
    int32_t start, low_start, high_start;  // of QuantTerms

    // Of sets that sum in 32 bits.
    static CodeSums of(int low, int high) { return {low, high, -(low + high), -32 * low, -32 * high}; }
};

// S::largest(x): the largest magnitude of 32 values; NaN counts as more than infinity.
// S::quantize_block(x, inverse, q): 32 codes, x * inverse rounded to even.
//
// A row's blocks have integers as scales, times the row's unit, so that they can be multiplied in before sums
// become floats. They are rounded up, also to kFactorBits significant bits, so that tables of scales are
// short: by at most an eighth. A block's codes use at least half of their range where its magnitude is more
// than 1/7680 of the row's.
constexpr int round_factor_up(int factor) {
    const int dropped =
        std::max(static_cast<int>(std::bit_width(static_cast<unsigned>(factor))) - kFactorBits, 0);
    return ((factor - 1) >> dropped << dropped) + (1 << dropped);
}
static_assert(round_factor_up(kLargestFactor) == kLargestFactor);

template <class S>
void quantize_row(const float* x, const QuantRows& out, size_t token) {
    const size_t first = out.index(token, 0), stride = out.group_rows(token);
    int8_t* q = out.q + 32 * first;
    QuantTerms* terms = out.terms + first;
    // Blocks' magnitudes, which wait in their terms: their order as integers is theirs as floats, NaN above
    // infinity.
    int32_t largest_bits = 0;
    for (size_t b = 0; b < out.n_blocks; ++b) {
        terms[b * stride].start = std::bit_cast<int32_t>(S::largest(x + 32 * b));
        largest_bits = std::max(largest_bits, terms[b * stride].start);
    }
    const float largest = std::bit_cast<float>(largest_bits);
    // Magnitudes too small to divide by count as zero.
    const bool zero = largest < 0x1p-100f, finite = largest <= std::numeric_limits<float>::max();
    const float unit = largest / 127.0f / kLargestFactor;
    out.unit[token] = zero ? 0.0f : finite ? unit : std::numeric_limits<float>::quiet_NaN();
    const float ratio = kLargestFactor / largest;
    for (size_t b = 0; b < out.n_blocks; ++b, x += 32, q += 32 * stride, terms += stride) {
        if (zero || !finite) {
            std::memset(q, 0, 32);
            *terms = {};
            continue;
        }
        const auto magnitude = std::bit_cast<float>(terms->start);
        const int factor = round_factor_up(std::min(static_cast<int>(magnitude * ratio) + 1, kLargestFactor));
        const CodeSums sums = S::quantize_block(x, 1.0f / (unit * static_cast<float>(factor)), q);
        const int sum = sums.low + sums.high;
        *terms = {static_cast<float>(factor),
                  S::multiplier(factor),
                  sums.start,
                  sums.low_start,
                  sums.high_start,
                  static_cast<float>(factor * sum),
                  static_cast<float>(factor * sums.high)};
    }
}

// Levels of a format as unsigned bytes, `offset` added.
template <class F, int offset>
constexpr std::array<uint8_t, 16> level_table() {
    std::array<uint8_t, 16> table{};
    for (size_t i = 0; i < 16; ++i) table[i] = static_cast<uint8_t>(F::kLevels[i] + offset);
    return table;
}

}  // namespace
}  // namespace edgellm
