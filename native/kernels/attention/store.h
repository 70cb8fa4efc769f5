// SPDX-License-Identifier: MIT
// Writing one token's keys and values into a block of the cache. Included after a vec_*.h.
#pragma once

#include "kernels/attention/integer_tiles.h"

namespace edgellm {
namespace {

// Values past the range of binary16 are stored as its largest: an infinite key or value would poison every
// later token.
EDGELLM_INLINE F32 clamp_half(F32 x) {
    const F32 limit = splat(65504.0f);
    const F32 bounded = max(min(x, limit), -limit);
    return x == x ? bounded : x;
}

// n values from x as binary16, in order, `stride` apart.
void write_half(const float* x, size_t n, uint16_t* out, size_t stride) {
    for (size_t i = 0; i < n; i += kLanes) {
        const size_t count = n - i < kLanes ? n - i : kLanes;
        alignas(32) uint16_t half[kLanes];
        store_half(half, clamp_half(count == kLanes ? load(x + i) : load_part(x + i, count)));
        for (size_t j = 0; j < count; ++j) out[(i + j) * stride] = half[j];
    }
}

// n values from x as int8 with one binary16 scale per 32 values: x ~ scale * q, |q| <= 127.
void write_int8(const float* x, size_t n, int8_t* out, size_t stride, uint16_t* scales) {
    for (size_t g = 0; g < n; g += kQuantGroup) {
        const size_t count = n - g < kQuantGroup ? n - g : kQuantGroup;
        alignas(64) float group[kQuantGroup] = {};
        __builtin_memcpy(group, x + g, count * sizeof(float));
        // Magnitudes compare as integers, and NaN is the largest of them.
        I32 magnitude = splat_int(0);
        for (size_t i = 0; i < kQuantGroup; i += kLanes) {
            const I32 a = (I32)load(group + i) & 0x7fffffff;
            magnitude = a > magnitude ? a : magnitude;
        }
        int32_t largest = 0;
        for (size_t i = 0; i < kLanes; ++i) largest = magnitude[i] > largest ? magnitude[i] : largest;
        alignas(32) uint16_t half[kLanes];
        store_half(half, clamp_half((F32)splat_int(largest) / splat(127.0f)));
        const float scale = load_half(half)[0];
        const F32 inverse = splat(scale > 0.0f ? 1.0f / scale : 0.0f);
        scales[g / kQuantGroup * kKvBlockTokens] = half[0];
        alignas(64) int32_t q[kQuantGroup];
        for (size_t i = 0; i < kQuantGroup; i += kLanes) {
            const F32 v = max(min(load(group + i) * inverse, splat(127.0f)), splat(-127.0f));
            // Adding 1.5 * 2^23 rounds to nearest even and leaves the integer in the low bits.
            const I32 rounded = (I32)(v + splat(12582912.0f)) - (I32)splat(12582912.0f);
            __builtin_memcpy(q + i, &rounded, sizeof rounded);
        }
        for (size_t i = 0; i < count; ++i) out[(g + i) * stride] = static_cast<int8_t>(q[i]);
    }
}

// n values as integers, and zeros after them up to n_out: f(i, count, integers) for pieces of 64.
template <class F>
EDGELLM_INLINE void write_integers(const float* x, size_t n, float scale, size_t n_out, F f) {
    constexpr size_t kPiece = 64;
    for (size_t i = 0; i < n_out; i += kPiece) {
        alignas(64) int16_t ints[kPiece];
        const size_t count = n_out - i < kPiece ? n_out - i : kPiece;
        to_integers(x + i, i < n ? n - i : 0, scale, count, ints);
        f(i, count, ints);
    }
}

// One token of one head at `slot`; another thread may write the other token of the pair, so never more than
// one's own 16 bits of the values.
void write_token(const AttentionShape& s, const float* key, const float* value, size_t slot, int16_t* keys,
                 int16_t* values) {
    const size_t stride = value_stride(s);
    const uint32_t key_exponent = scale_exponent(integer_scale(key, s.key_dim));
    const uint32_t value_exponent = scale_exponent(integer_scale(value, s.value_dim));
    const auto with_bits = [](int16_t v, uint32_t bits) {
        return static_cast<int16_t>((v & ~3) | (bits & 3));
    };
    write_integers(key, s.key_dim, stored_scale(key_exponent), 2 * key_pairs(s),
                   [&](size_t i, size_t n, int16_t* ints) {
                       for (size_t p = 0; i == 0 && p < kScalePairs; ++p) {
                           ints[2 * p] = with_bits(ints[2 * p], key_exponent >> 2 * p);
                           ints[2 * p + 1] = with_bits(ints[2 * p + 1], value_exponent >> 2 * p);
                       }
                       for (size_t j = 0; j < n; j += 2)
                           __builtin_memcpy(keys + (i + j) * kKvBlockTokens + 2 * slot, ints + j, 4);
                   });
    values += slot / 2 * 2 * stride + slot % 2;
    write_integers(value, s.value_dim, stored_scale(value_exponent), stride,
                   [&](size_t i, size_t n, const int16_t* ints) {
                       for (size_t j = 0; j < n; ++j) values[2 * (i + j)] = ints[j];
                   });
}

void write(const AttentionShape& s, uint8_t* block, uint32_t slot, const float* k, const float* v) {
    const size_t stride = value_stride(s);
    for (size_t h = 0; h < s.n_kv_heads; ++h) {
        uint8_t* keys = block + key_offset(s, h);
        uint8_t* values = block + value_offset(s, h);
        const float* key = k + h * s.key_dim;
        const float* value = v + h * s.value_dim;
        if (s.kv_type == KvType::kF32) {
            auto* row = reinterpret_cast<float*>(values) + slot * stride;
            auto* column = reinterpret_cast<float*>(keys) + slot;
            for (size_t i = 0; i < s.key_dim; ++i) column[i * kKvBlockTokens] = key[i];
            for (size_t i = 0; i < s.value_dim; ++i) row[i] = value[i];
            for (size_t i = s.value_dim; i < stride; ++i) row[i] = 0.0f;
        } else if (s.kv_type == KvType::kF16) {
            auto* row = reinterpret_cast<uint16_t*>(values) + slot * stride;
            write_half(key, s.key_dim, reinterpret_cast<uint16_t*>(keys) + slot, kKvBlockTokens);
            write_half(value, s.value_dim, row, 1);
            for (size_t i = s.value_dim; i < stride; ++i) row[i] = 0;
        } else if (s.kv_type == KvType::kI16) {
            write_token(s, key, value, slot, reinterpret_cast<int16_t*>(keys),
                        reinterpret_cast<int16_t*>(values));
        } else {
            auto* row = reinterpret_cast<int8_t*>(values) + slot * stride;
            write_int8(key, s.key_dim, reinterpret_cast<int8_t*>(keys) + slot, kKvBlockTokens,
                       reinterpret_cast<uint16_t*>(keys + key_scales_offset(s)) + slot);
            write_int8(value, s.value_dim, row, 1,
                       reinterpret_cast<uint16_t*>(values + value_scales_offset(s)) + slot);
            for (size_t i = s.value_dim; i < stride; ++i) row[i] = 0;
        }
    }
}

}  // namespace
}  // namespace edgellm
