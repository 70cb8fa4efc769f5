// SPDX-License-Identifier: MIT
// Where a key, a value and their scales lie in a block of the cache, and what a thread's scratch holds.
// Internal linkage: these functions are compiled into files with different instruction sets.
#pragma once

#include "kernels/attention/attention.h"

namespace edgellm {
namespace {

constexpr size_t kGroupRows = 48;                     // rows (query, head) that share an expanded block
constexpr size_t kLogitStride = kKvChunkTokens + 16;  // floats; the 16 keep rows out of one cache set
constexpr size_t kWeightStride = 2 * kLogitStride;    // 16-bit weights take the place of the logits
constexpr size_t kChunkBlocks = kKvChunkTokens / kKvBlockTokens;
constexpr size_t kQuantGroup = 32;  // values per scale of a kQ8_0 cache

constexpr size_t round_up(size_t n, size_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

// Rows of values are padded so that vectors need no tail.
constexpr size_t value_stride(const AttentionShape& s) {
    return round_up(s.value_dim, 16);
}

// kF16, kF32: keys [key_dim][32], values [32][value_stride].
// kQ8_0: keys int8 [key_dim][32], then their scales [ceil(key_dim / 32)][32] in binary16; values int8
// [32][value_stride], then their scales [ceil(value_dim / 32)][32].
// kI16: keys int16 [key_pairs][32][2], values int16 [16][value_stride][2], a token beside the next. Scales
// take no room, so that a head's keys of 64 dimensions stay one page: a scale is 1.5 * 2^(e - 127), and the
// eight bits of e are the lowest two of four dimensions of the key, the even ones of the first four pairs for
// the key's own scale, the odd ones for the value's.
constexpr size_t kScalePairs = 4;
constexpr size_t key_pairs(const AttentionShape& s) {
    const size_t pairs = (s.key_dim + 1) / 2;
    return pairs > kScalePairs ? pairs : kScalePairs;
}
constexpr size_t key_scales_offset(const AttentionShape& s) {
    return s.key_dim * kKvBlockTokens;
}
constexpr size_t value_scales_offset(const AttentionShape& s) {
    return value_stride(s) * kKvBlockTokens;
}

constexpr size_t key_bytes(const AttentionShape& s) {
    switch (s.kv_type) {
        case KvType::kF16:
            return s.key_dim * kKvBlockTokens * 2;
        case KvType::kF32:
            return s.key_dim * kKvBlockTokens * 4;
        case KvType::kI16:
            return key_pairs(s) * kKvBlockTokens * 4;
        case KvType::kQ8_0:
            break;
    }
    return key_scales_offset(s) + round_up(s.key_dim, kQuantGroup) / kQuantGroup * kKvBlockTokens * 2;
}
constexpr size_t value_bytes(const AttentionShape& s) {
    switch (s.kv_type) {
        case KvType::kF16:
        case KvType::kI16:
            return value_stride(s) * kKvBlockTokens * 2;
        case KvType::kF32:
            return value_stride(s) * kKvBlockTokens * 4;
        case KvType::kQ8_0:
            break;
    }
    return value_scales_offset(s) + round_up(s.value_dim, kQuantGroup) / kQuantGroup * kKvBlockTokens * 2;
}
constexpr size_t key_offset(const AttentionShape& s, size_t kv_head) {
    return kv_head * key_bytes(s);
}
constexpr size_t value_offset(const AttentionShape& s, size_t kv_head) {
    return s.n_kv_heads * key_bytes(s) + kv_head * value_bytes(s);
}

// partial_floats of the contract, with internal linkage.
constexpr size_t partial_size(const AttentionShape& s) {
    return 2 + s.value_dim;
}

// A thread's scratch, in floats from its start.
struct ScratchLayout {
    size_t q;         // queries, tile by tile: [key_dim][rows of the tile]; kI16: integers [pairs][rows][2]
    size_t logits;    // [kGroupRows][kLogitStride]; kI16: then the weights
    size_t values;    // a chunk's weighted values, [kGroupRows][value_stride]
    size_t expanded;  // one block of keys or values as floats; kI16: one query as integers
    size_t weight_scales;  // kI16: [kGroupRows][kChunkBlocks]
    size_t scales;         // kI16: of a chunk's keys, then of its values, [2][kKvChunkTokens]
    size_t total;
};
constexpr ScratchLayout scratch_layout(const AttentionShape& s) {
    ScratchLayout l{};
    l.logits = kGroupRows * 2 * key_pairs(s);
    l.values = l.logits + kGroupRows * kLogitStride;
    l.expanded = l.values + kGroupRows * value_stride(s);
    const size_t widest = 2 * key_pairs(s) > value_stride(s) ? 2 * key_pairs(s) : value_stride(s);
    l.weight_scales = l.expanded + kKvBlockTokens * widest;
    l.scales = l.weight_scales + kGroupRows * kChunkBlocks;
    l.total = l.scales + 2 * kKvChunkTokens;
    return l;
}

// Keys [first, last) that a query at `position` sees.
struct KeyRange {
    uint32_t first, last;
};
constexpr KeyRange visible_keys(const AttentionShape& s, uint32_t position, uint32_t n_keys) {
    if (n_keys > 0) return {0, n_keys};
    const uint32_t last = position + 1;
    return {s.window > 0 && last > s.window ? last - s.window : 0, last};
}

}  // namespace
}  // namespace edgellm
