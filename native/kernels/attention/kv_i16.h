// SPDX-License-Identifier: MIT
// A cache of 16-bit integers with a scale for every token and head. Included after a vec_*.h.
#pragma once

#include "kernels/attention/integer_tiles.h"
#include "kernels/attention/kv_float.h"

namespace edgellm {
namespace {

// A scale as stored: 1.5 * 2^(e - 127), a float whose mantissa is 1.5's; e = 255 makes it NaN.
constexpr uint32_t kScaleMantissa = 0x00400000;
inline float stored_scale(uint32_t e) {
    const uint32_t bits = e << 23 | kScaleMantissa;
    float scale;
    __builtin_memcpy(&scale, &bits, sizeof scale);
    return scale;
}
// e of the least such scale that is not below `scale`.
inline uint32_t scale_exponent(float scale) {
    if (scale != scale) return 255;
    const float power = scale * (1.0f / 1.5f);
    uint32_t bits;
    __builtin_memcpy(&bits, &power, sizeof bits);
    return (bits + 0x7fffff) >> 23;
}

template <>
struct KvCache<KvType::kI16> {
    static constexpr bool kIntegers = true;

    // Scales of a block's keys and values, 32 each, from the lowest bits of its keys.
    static void read_scales(const uint8_t* block, float* key_scales, float* value_scales) {
        const auto* keys = reinterpret_cast<const int16_t*>(block);
        for (size_t at = 0; at < kKvBlockTokens; at += kLanes) {
            U32 bits = (U32)splat_int(0);
            unrolled<kScalePairs>([&](auto p) EDGELLM_INLINE_LAMBDA {
                bits |= ((U32)load_pairs(keys + 2 * (p * kKvBlockTokens + at)) & 0x00030003u)
                        << unsigned{2 * p};
            });
            store(key_scales + at, (F32)(bits << 23 | kScaleMantissa));
            store(value_scales + at, (F32)((bits << 7 & 0x7f800000u) | kScaleMantissa));
        }
    }

    // n values as integers, and zeros after them up to n_out: f(i, count, integers) for pieces of 64.
    template <class F>
    EDGELLM_INLINE static void each_piece(const float* x, size_t n, float scale, size_t n_out, F f) {
        constexpr size_t kPiece = 64;
        for (size_t i = 0; i < n_out; i += kPiece) {
            alignas(64) int16_t ints[kPiece];
            const size_t count = n_out - i < kPiece ? n_out - i : kPiece;
            to_integers(x + i, i < n ? n - i : 0, scale, count, ints);
            f(i, count, ints);
        }
    }

    // Another thread may write the other token of the pair, so only this token's 16 bits of values change.
    static void write(const AttentionShape& s, const float* key, const float* value, size_t slot,
                      uint8_t* key_block, uint8_t* value_block) {
        auto* keys = reinterpret_cast<int16_t*>(key_block);
        auto* values = reinterpret_cast<int16_t*>(value_block);
        const size_t stride = value_stride(s);
        const uint32_t key_exponent = scale_exponent(integer_scale(key, s.key_dim));
        const uint32_t value_exponent = scale_exponent(integer_scale(value, s.value_dim));
        const auto with_bits = [](int16_t v, uint32_t bits) {
            return static_cast<int16_t>((v & ~3) | (bits & 3));
        };
        each_piece(key, s.key_dim, stored_scale(key_exponent), 2 * key_pairs(s),
                   [&](size_t i, size_t n, int16_t* ints) {
                       for (size_t p = 0; i == 0 && p < kScalePairs; ++p) {
                           ints[2 * p] = with_bits(ints[2 * p], key_exponent >> 2 * p);
                           ints[2 * p + 1] = with_bits(ints[2 * p + 1], value_exponent >> 2 * p);
                       }
                       for (size_t j = 0; j < n; j += 2)
                           __builtin_memcpy(keys + (i + j) * kKvBlockTokens + 2 * slot, ints + j, 4);
                   });
        values += slot / 2 * 2 * stride + slot % 2;
        each_piece(value, s.value_dim, stored_scale(value_exponent), stride,
                   [&](size_t i, size_t n, const int16_t* ints) {
                       for (size_t j = 0; j < n; ++j) values[2 * (i + j)] = ints[j];
                   });
    }

    // Keys [pairs][32][2] or values [16][stride][2]. One tile fetches the block ahead; several take so long
    // for one that the processor has it by then.
    template <bool one_tile>
    struct Block {
        static constexpr bool kIntegers = true;
        const int16_t* data;
        Ahead ahead;
        EDGELLM_INLINE I32 at(size_t pair) const { return load_pairs(data + 2 * pair); }
        EDGELLM_INLINE void prefetch(size_t pair, size_t n) const {
            if constexpr (one_tile) {
                for (size_t line = 0; line < n; line += 16) ahead.fetch(4 * (pair + line));
            }
        }
    };

    template <class F>
    EDGELLM_INLINE static void read(const StoredBlock& b, F f) {
        const auto* numbers = reinterpret_cast<const int16_t*>(b.data);
        if (b.one_tile)
            f(Block<true>{numbers, b.ahead});
        else
            f(Block<false>{numbers, b.ahead});
    }
};

}  // namespace
}  // namespace edgellm
