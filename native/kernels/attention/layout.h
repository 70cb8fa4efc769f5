// SPDX-License-Identifier: MIT
// Where a key, a value and their scales lie in a block of the cache, and what a thread's scratch holds.
// Internal linkage: these functions are compiled into files with different instruction sets.
#pragma once

#include "kernels/attention/attention.h"

namespace edgellm {
namespace {

constexpr size_t kGroupRows = 48;                     // rows (query, head) that share an expanded block
constexpr size_t kLogitStride = kKvChunkTokens + 16;  // floats; the 16 keep rows out of one cache set
constexpr size_t kQuantGroup = 32;                    // values per scale of a kQ8_0 cache

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
constexpr size_t key_scales_offset(const AttentionShape& s) {
    return s.key_dim * kKvBlockTokens;
}
constexpr size_t value_scales_offset(const AttentionShape& s) {
    return value_stride(s) * kKvBlockTokens;
}

constexpr size_t key_bytes(const AttentionShape& s) {
    if (s.kv_type != KvType::kQ8_0) return s.key_dim * kKvBlockTokens * (s.kv_type == KvType::kF16 ? 2 : 4);
    return key_scales_offset(s) + round_up(s.key_dim, kQuantGroup) / kQuantGroup * kKvBlockTokens * 2;
}
constexpr size_t value_bytes(const AttentionShape& s) {
    if (s.kv_type != KvType::kQ8_0)
        return value_stride(s) * kKvBlockTokens * (s.kv_type == KvType::kF16 ? 2 : 4);
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
    size_t q;         // queries times scale, tile by tile: [key_dim][rows of the tile]
    size_t logits;    // [kGroupRows][kLogitStride]
    size_t values;    // a chunk's weighted values, [kGroupRows][value_stride]
    size_t expanded;  // one block of keys or values as floats
    size_t total;
};
constexpr ScratchLayout scratch_layout(const AttentionShape& s) {
    ScratchLayout l{};
    l.logits = round_up(kGroupRows * s.key_dim, 16);
    l.values = l.logits + kGroupRows * kLogitStride;
    l.expanded = l.values + kGroupRows * value_stride(s);
    const size_t widest = s.key_dim > value_stride(s) ? s.key_dim : value_stride(s);
    l.total = l.expanded + kKvBlockTokens * widest;
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
