// SPDX-License-Identifier: MIT
// A cache of 8-bit integers with a binary16 scale for every 32 values: x ~ scale * q, |q| <= 127. Included
// after a vec_*.h.
#pragma once

#include "kernels/attention/kv_float.h"

namespace edgellm {
namespace {

template <>
struct KvCache<KvType::kQ8_0> {
    static constexpr bool kIntegers = false;
    using Layout = KvLayout<KvType::kQ8_0>;

    // n values from x in order, `stride` apart.
    static void write_numbers(const float* x, size_t n, int8_t* out, size_t stride, uint16_t* scales) {
        for (size_t g = 0; g < n; g += kQuantGroup) {
            const size_t count = n - g < kQuantGroup ? n - g : kQuantGroup;
            alignas(64) float group[kQuantGroup] = {};
            __builtin_memcpy(group, x + g, count * sizeof(float));
            // Magnitudes compare as integers, and NaN is the largest of them.
            I32 magnitude = splat_int(0);
            for (size_t i = 0; i < kQuantGroup; i += kLanes) {
                const I32 a = (I32)absolute(load(group + i));
                magnitude = a > magnitude ? a : magnitude;
            }
            int32_t largest = 0;
            for (size_t i = 0; i < kLanes; ++i) largest = magnitude[i] > largest ? magnitude[i] : largest;
            alignas(32) uint16_t half[kLanes];
            store_half(half, clamp_to_half((F32)splat_int(largest) / splat(127.0f)));
            const float scale = load_half(half)[0];
            const F32 inverse = splat(scale > 0.0f ? 1.0f / scale : 0.0f);
            scales[g / kQuantGroup * kKvBlockTokens] = half[0];
            alignas(64) int32_t q[kQuantGroup];
            for (size_t i = 0; i < kQuantGroup; i += kLanes) {
                // NaN becomes 127.
                const F32 v = max(min(load(group + i) * inverse, splat(127.0f)), splat(-127.0f));
                const I32 rounded = nearest_int(v);
                __builtin_memcpy(q + i, &rounded, sizeof rounded);
            }
            for (size_t i = 0; i < count; ++i) out[(g + i) * stride] = static_cast<int8_t>(q[i]);
        }
    }

    static void write(const AttentionShape& s, const float* key, const float* value, size_t slot,
                      uint8_t* keys, uint8_t* values) {
        auto* row = reinterpret_cast<int8_t*>(values) + slot * value_stride(s);
        write_numbers(key, s.key_dim, reinterpret_cast<int8_t*>(keys) + slot, kKvBlockTokens,
                      reinterpret_cast<uint16_t*>(keys + Layout::key_scales_offset(s)) + slot);
        write_numbers(value, s.value_dim, row, 1,
                      reinterpret_cast<uint16_t*>(values + Layout::value_scales_offset(s)) + slot);
        for (size_t i = s.value_dim; i < value_stride(s); ++i) row[i] = 0;
    }

    struct Block {
        static constexpr bool kIntegers = false, kScaled = true;
        const int8_t* data;
        const uint16_t* scales;
        Ahead ahead;
        EDGELLM_INLINE F32 at(size_t i) const { return load_int8(data + i); }
        EDGELLM_INLINE void prefetch(size_t i, size_t) const { ahead.fetch(i); }
    };

    template <class F>
    EDGELLM_INLINE static void read(const StoredBlock& b, F f) {
        const auto* numbers = reinterpret_cast<const int8_t*>(b.data);
        const auto* scales = reinterpret_cast<const uint16_t*>(b.data + b.n);
        if (b.one_tile) return f(Block{numbers, scales, b.ahead});
        for (size_t i = 0; i < b.n_written; i += kLanes) store(b.copy + i, load_int8(numbers + i));
        f(FloatBlock<true>{b.copy, scales});
    }
};

}  // namespace
}  // namespace edgellm
