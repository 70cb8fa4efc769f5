// SPDX-License-Identifier: MIT
// What every body of the linear kernels starts from. These headers are included by one file per instruction
// set, each compiled with flags of its own, so everything in them has internal linkage.
//
// A set of primitives S works on one register at a time; 64 bytes (16 rows x 4 columns) are S::kParts
// registers.
//   Bytes          codes of kLanes rows x 4 columns
//   Ints, Floats   kLanes = 16 / kParts lanes, a row each
//   kSigned        codes of 8 bits are wanted signed (else + 128, unsigned)
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

#include "kernels/linear/layout.h"

namespace edgellm {
namespace {

#define EDGELLM_INLINE [[gnu::always_inline]] inline
// A set whose registers are arrays (scalar) defines it empty.
#ifndef EDGELLM_UNROLL
#define EDGELLM_UNROLL _Pragma("GCC unroll 64")
#endif

// Columns in work at a time, in blocks of 32, with codes of that type: what a tile reads of them stays in L1.
template <class Code>
constexpr size_t kChunkBlocks = sizeof(Code) == 1 ? 24 : 16;
constexpr size_t kBlockTokens = 96;      // tokens that meet an expanded chunk: a multiple of every tile
constexpr size_t kPrefetchBytes = 1280;  // ahead of the block in work

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

struct BlockScale {
    float scale, inverse;
};

// Of a block whose largest magnitude is given. Magnitudes too small to divide by count as zero.
inline BlockScale block_scale(float largest) {
    if (largest < 0x1p-100f) return {0.0f, 0.0f};
    return {largest / 127.0f, 127.0f / largest};
}

// sum: of the block's 32 codes; high: of the last 16.
inline void store_sums(const QuantRows& out, size_t n_in, size_t token, size_t block, float scale, int sum,
                       int high) {
    out.scale[token * (n_in / 32) + block] = scale;
    float* sums = out.sum16 + token * (n_in / 16) + 2 * block;
    sums[0] = scale * static_cast<float>(sum);
    sums[1] = scale * static_cast<float>(high);
}

// Levels of a format as unsigned bytes, `offset` added.
template <GGMLType type, int offset>
constexpr std::array<uint8_t, 16> level_table() {
    std::array<uint8_t, 16> table{};
    for (size_t i = 0; i < 16; ++i) table[i] = static_cast<uint8_t>(levels_of(type)[i] + offset);
    return table;
}

}  // namespace
}  // namespace edgellm
