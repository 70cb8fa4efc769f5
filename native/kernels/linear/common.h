// SPDX-License-Identifier: MIT
// Constants of the linear kernels, and the quantizing of activations. These headers are included by one file
// per instruction set, each compiled with flags of its own, so everything in them has internal linkage.
// S is a LinearSimd (simd.h).
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "base/inline.h"
#include "kernels/linear/pack.h"
#include "kernels/linear/simd.h"

namespace edgellm {
namespace {

// A set whose registers are arrays (scalar) defines it empty.
#ifndef EDGELLM_UNROLL
#define EDGELLM_UNROLL _Pragma("GCC unroll 64")
#endif

// Blocks of 32 columns in work at a time, with codes of that type: their codes stay in L1.
template <class Code>
constexpr size_t kChunkBlocks = sizeof(Code) == 1 ? 24 : 16;
constexpr size_t kTableBlocks = 32;  // blocks of a table of scales; half as many where they are pairs
constexpr size_t kL2Blocks = 64;     // these of a group of tokens, with their terms, take 370 KB
constexpr size_t kBlockTokens = QuantRows::kGroup;  // tokens that multiply one expanded chunk
constexpr size_t kPrefetchBytes = 2048;             // distance of prefetches into L1
constexpr size_t kFarPrefetchBytes = 6144;          // distance of prefetches into L2

// The compiler forgets values that it read through y. So a tile's sums stay out of the registers that dots
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

// The zero point of a set whose sums have room for any: the whole offset, where a shift applies it.
constexpr int exact_centre(int offset) {
    return std::has_single_bit(static_cast<unsigned>(offset)) ? offset : 0;
}

// Sums of a quantized block's first and last 16 codes.
struct CodeSums {
    int low, high;
};

// Terms of sets whose dots are sums of 32 bits.
struct DotTerms {
    // Accumulator's start for a zero point of 1 over all 32 columns: minus the sum of the codes. And for a
    // zero point of 32 over the first and last 16 columns.
    int32_t start, low_start, high_start;
    int32_t shift;  // exponent of the factor's power of two; tables of scales have the rest (expanded.h)

    // Written in place: a struct that is returned and copied makes a load that waits for all stores before
    // it.
    void set(CodeSums sums, int factor) {
        start = -(sums.low + sums.high);
        low_start = -32 * sums.low;
        high_start = -32 * sums.high;
        shift = exponent_of(factor);
    }
};

// An instruction set's own terms.
template <class S>
EDGELLM_INLINE const typename S::Terms& terms_of(const QuantTerms& terms) {
    static_assert(sizeof(typename S::Terms) == sizeof(terms.extra));
    return reinterpret_cast<const typename S::Terms&>(terms.extra);
}
template <class S>
EDGELLM_INLINE typename S::Terms& terms_of(QuantTerms& terms) {
    return const_cast<typename S::Terms&>(terms_of<S>(std::as_const(terms)));
}

// The scale of a block is an integer times the row's unit, so that it can be multiplied in before sums become
// floats. It is rounded up, also to kFactorBits significant bits, by at most an eighth: tables of scales stay
// short. The codes use at least half of their range where the block's magnitude is more than 1/7680 of the
// row's.
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
    // A block's magnitude waits as its factor. Magnitudes compare as integers as they do as floats, NaN above
    // infinity.
    int32_t largest_bits = 0;
    for (size_t b = 0; b < out.n_blocks; ++b) {
        terms[b * stride].factor = S::largest(x + 32 * b);
        largest_bits = std::max(largest_bits, std::bit_cast<int32_t>(terms[b * stride].factor));
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
        const float magnitude = terms->factor;
        const int factor = round_factor_up(std::min(static_cast<int>(magnitude * ratio) + 1, kLargestFactor));
        const float inverse = 1.0f / (unit * static_cast<float>(factor));
        const CodeSums sums = S::quantize_block(x, inverse, factor, q, &terms_of<S>(*terms));
        terms->factor = static_cast<float>(factor);
        terms->sum = static_cast<float>(factor * (sums.low + sums.high));
        terms->high = static_cast<float>(factor * sums.high);
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
