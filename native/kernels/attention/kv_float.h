// SPDX-License-Identifier: MIT
// Caches of floats, f32 and f16. Included after a vec_*.h.
#pragma once

#include "kernels/attention/float_tiles.h"

namespace edgellm {
namespace {

// Reads and writes a cache of a type.
//   kIntegers      keys and values are multiplied as integers (integer_tiles.h), else as floats
//   write(...)     stores one head's key and value of a token at `slot` of a block
//   read(b, f)     calls f with a block type that its tiles read: at(i), prefetch(i, n)
template <KvType type>
struct KvCache;

// Values past the range of binary16 are stored as its largest: an infinite key or value would poison every
// later token.
EDGELLM_INLINE F32 clamp_to_half(F32 x) {
    return clamp_magnitude(x, 65504.0f);
}

template <>
struct KvCache<KvType::kF32> {
    static constexpr bool kIntegers = false;

    static void write(const AttentionShape& s, const float* key, const float* value, size_t slot,
                      uint8_t* keys, uint8_t* values) {
        auto* column = reinterpret_cast<float*>(keys) + slot;
        auto* row = reinterpret_cast<float*>(values) + slot * value_stride(s);
        for (size_t d = 0; d < s.key_dim; ++d) column[d * kKvBlockTokens] = key[d];
        __builtin_memcpy(row, value, s.value_dim * sizeof(float));
        for (size_t i = s.value_dim; i < value_stride(s); ++i) row[i] = 0.0f;
    }

    template <class F>
    EDGELLM_INLINE static void read(const StoredBlock& b, F f) {
        f(FloatBlock<false>{reinterpret_cast<const float*>(b.data), nullptr});
    }
};

template <>
struct KvCache<KvType::kF16> {
    static constexpr bool kIntegers = false;

    // n values from x in order, `stride` apart.
    static void write_numbers(const float* x, size_t n, uint16_t* out, size_t stride) {
        for (size_t i = 0; i < n; i += kLanes) {
            const size_t count = n - i < kLanes ? n - i : kLanes;
            alignas(32) uint16_t half[kLanes];
            store_half(half, clamp_to_half(load_count(x + i, count)));
            for (size_t j = 0; j < count; ++j) out[(i + j) * stride] = half[j];
        }
    }

    static void write(const AttentionShape& s, const float* key, const float* value, size_t slot,
                      uint8_t* keys, uint8_t* values) {
        auto* row = reinterpret_cast<uint16_t*>(values) + slot * value_stride(s);
        write_numbers(key, s.key_dim, reinterpret_cast<uint16_t*>(keys) + slot, kKvBlockTokens);
        write_numbers(value, s.value_dim, row, 1);
        for (size_t i = s.value_dim; i < value_stride(s); ++i) row[i] = 0;
    }

    struct Block {
        static constexpr bool kIntegers = false, kScaled = false;
        const uint16_t* data;
        Ahead ahead;
        EDGELLM_INLINE F32 at(size_t i) const { return load_half(data + i); }
        EDGELLM_INLINE void prefetch(size_t i, size_t n) const {
            for (size_t line = 0; line < n; line += 32) ahead.fetch(2 * (i + line));
        }
    };

    template <class F>
    EDGELLM_INLINE static void read(const StoredBlock& b, F f) {
        const auto* half = reinterpret_cast<const uint16_t*>(b.data);
        if (b.one_tile) return f(Block{half, b.ahead});
        for (size_t i = 0; i < b.n_written; i += 16) {
            unrolled<16 / kLanes>([&](auto j) EDGELLM_INLINE_LAMBDA {
                store(b.copy + i + j * kLanes, load_half(half + i + j * kLanes));
            });
        }
        f(FloatBlock<false>{b.copy, nullptr});
    }
};

}  // namespace
}  // namespace edgellm
