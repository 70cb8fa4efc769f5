// SPDX-License-Identifier: MIT
// Places of keys, values and scales in a block of the cache, and of values in a thread's scratch. Internal
// linkage: these functions are compiled into files with different instruction sets.
#pragma once

#include "kernels/attention/attention.h"

namespace edgellm {
namespace {

constexpr size_t kGroupRows = 48;                     // rows (query, head) that share an expanded block
constexpr size_t kLogitStride = kKvChunkTokens + 16;  // floats; the 16 keep rows out of one cache set
constexpr size_t kWeightStride = 2 * kLogitStride;    // 16-bit weights take the place of the logits
constexpr size_t kChunkBlocks = kKvChunkTokens / kKvBlockTokens;
constexpr size_t kQuantGroup = 32;  // values per scale of a q8_0 cache

constexpr size_t round_up(size_t n, size_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}

// Rows of values are padded so that vectors need no tail.
constexpr size_t value_stride(const AttentionShape& s) {
    return round_up(s.value_dim, 16);
}
// Pairs of dimensions of an i16 key; at least those whose lowest bits hold the scales.
constexpr size_t kScalePairs = 4;
constexpr size_t key_pairs(const AttentionShape& s) {
    const size_t pairs = (s.key_dim + 1) / 2;
    return pairs > kScalePairs ? pairs : kScalePairs;
}

// Bytes of one head's keys and of its values in a block, for each type of cache. Keys are transposed, so that
// a vector lane is a token and a product needs no sum across lanes.
template <KvType type>
struct KvLayout;

// Keys [key_dim][32], values [32][value_stride].
template <size_t bytes>
struct PlainLayout {
    static constexpr size_t key_bytes(const AttentionShape& s) { return s.key_dim * kKvBlockTokens * bytes; }
    static constexpr size_t value_bytes(const AttentionShape& s) {
        return value_stride(s) * kKvBlockTokens * bytes;
    }
};
template <>
struct KvLayout<KvType::kF16> : PlainLayout<2> {};
template <>
struct KvLayout<KvType::kF32> : PlainLayout<4> {};

// int8 numbers as above, then their scales in binary16: of keys [ceil(key_dim / 32)][32], of values
// [ceil(value_dim / 32)][32].
template <>
struct KvLayout<KvType::kQ8_0> {
    static constexpr size_t scale_bytes(size_t dim) {
        return round_up(dim, kQuantGroup) / kQuantGroup * kKvBlockTokens * 2;
    }
    static constexpr size_t key_scales_offset(const AttentionShape& s) { return s.key_dim * kKvBlockTokens; }
    static constexpr size_t value_scales_offset(const AttentionShape& s) {
        return value_stride(s) * kKvBlockTokens;
    }
    static constexpr size_t key_bytes(const AttentionShape& s) {
        return key_scales_offset(s) + scale_bytes(s.key_dim);
    }
    static constexpr size_t value_bytes(const AttentionShape& s) {
        return value_scales_offset(s) + scale_bytes(s.value_dim);
    }
};

// Keys int16 [key_pairs][32][2], values int16 [16][value_stride][2], a token beside the next. Scales take no
// room, so that a head's keys of 64 dimensions stay one page: a scale is 1.5 * 2^(e - 127), and the eight
// bits of e are the lowest two of four dimensions of the key. The even ones of the first four pairs hold the
// key's own scale, the odd ones the value's.
template <>
struct KvLayout<KvType::kI16> {
    static constexpr size_t key_bytes(const AttentionShape& s) { return key_pairs(s) * kKvBlockTokens * 4; }
    static constexpr size_t value_bytes(const AttentionShape& s) {
        return value_stride(s) * kKvBlockTokens * 2;
    }
};

// f<type>() for a type known at run time.
template <class F>
constexpr auto with_kv_type(KvType type, F f) {
#define EDGELLM_KV_CASE(type, name) \
    case KvType::k##type:           \
        return f.template operator()<KvType::k##type>();
    switch (type) { EDGELLM_KV_TYPES(EDGELLM_KV_CASE) }
#undef EDGELLM_KV_CASE
    __builtin_unreachable();
}

template <KvType type>
constexpr size_t key_offset(const AttentionShape& s, size_t kv_head) {
    return kv_head * KvLayout<type>::key_bytes(s);
}
template <KvType type>
constexpr size_t value_offset(const AttentionShape& s, size_t kv_head) {
    return s.n_kv_heads * KvLayout<type>::key_bytes(s) + kv_head * KvLayout<type>::value_bytes(s);
}

// partial_floats of the contract, with internal linkage.
constexpr size_t partial_size(const AttentionShape& s) {
    return 2 + s.value_dim;
}

// A thread's scratch, in floats from its start.
struct ScratchLayout {
    size_t q;         // queries, tile by tile: [key_dim][rows of the tile]; i16: integers [pairs][rows][2]
    size_t logits;    // [kGroupRows][kLogitStride]; i16: then the weights
    size_t values;    // a chunk's weighted values, [kGroupRows][value_stride]
    size_t expanded;  // one block of keys or values as floats; i16: one query as integers
    size_t weight_scales;  // i16: [kGroupRows][kChunkBlocks]
    size_t scales;         // i16: of a chunk's keys, then of its values, [2][kKvChunkTokens]
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
