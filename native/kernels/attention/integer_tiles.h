// SPDX-License-Identifier: MIT
// Products of a tile of rows with one block of a kI16 cache, in 16-bit integers. Included after a vec_*.h.
//
// A multiplication of pairs of 16-bit integers does twice the work of one of floats, and integers are read as
// they are stored. Sums of 32 bits are exact as long as they fit, which the scales below see to.
#pragma once

#include "kernels/attention/float_tiles.h"

namespace edgellm {
namespace {

// The norm of a query, a key or a value in integers: |q . k| <= |q| |k|, so a product is below 2^30, and no
// integer needs more than 16 bits.
constexpr float kIntegerNorm = 32767.0f;
// The weights of a block's 32 tokens sum to about this: what they weigh stays below 2^30, too.
constexpr float kWeightSum = 32767.0f;
// Larger values are taken for this, whose squares may be summed; where a scale is smaller, all are taken for
// 0.
constexpr float kLargestValue = 1e17f;
constexpr float kSmallestScale = 1e-30f;

constexpr size_t kBlockPairs = kKvBlockTokens / 2;

// min and max give their second operand where one is NaN.
EDGELLM_INLINE F32 clamp_value(F32 x) {
    return max(splat(-kLargestValue), min(splat(kLargestValue), x));
}

// Adding 1.5 * 2^23 rounds to nearest even and leaves the integer in the low bits.
EDGELLM_INLINE I32 rounded_product(F32 x, F32 factor) {
    const F32 magic = splat(12582912.0f);
    return (I32)fma(x, factor, magic) - (I32)magic;
}

// The scale at which n values are integers within the norm; NaN if one of them is.
inline float integer_scale(const float* x, size_t n) {
    F32 squares = splat(0.0f);
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const F32 v = clamp_value(load(x + i));
        squares = fma(v, v, squares);
    }
    if (i < n) {
        const F32 v = clamp_value(load_part(x + i, n - i));
        squares = fma(v, v, squares);
    }
    return __builtin_sqrtf(reduce_add(squares)) * (1.0f / kIntegerNorm);
}

// A scale as it is stored: 1.5 * 2^(e - 127), a float whose mantissa is 1.5's; e = 255 makes a NaN of it.
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

// n values of a scale as integers, and zeros after them up to n_out or a little more, a multiple of 16.
inline void to_integers(const float* x, size_t n, float scale, size_t n_out, int16_t* out) {
    const F32 inverse = splat(scale > kSmallestScale ? 1.0f / scale : 0.0f);
    for (size_t i = 0; i < round_up(n_out, 16); i += kLanes) {
        const F32 v = i + kLanes <= n ? load(x + i) : i < n ? load_part(x + i, n - i) : splat(0.0f);
        store_int16(out + i, rounded_product(clamp_value(v), inverse));
    }
}

EDGELLM_INLINE I32 load_pairs(const int16_t* p) {
    I32 v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}
EDGELLM_INLINE I32 splat_pair(const int16_t* p) {
    int32_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return splat_int(v);
}

// An R x N tile of integer sums: f(r, j, sum).
template <size_t R, size_t N, class F>
EDGELLM_INLINE void each_sum(I32 (&sums)[R][N], F f) {
    unrolled<R>([&](auto r) EDGELLM_INLINE_LAMBDA {
        unrolled<N>([&](auto j) EDGELLM_INLINE_LAMBDA { f(r, j, sums[r][j]); });
    });
}

// One head's keys of a block, [pairs][32][2], or its values, [16][stride][2]. One tile asks for the block
// ahead; several take so long for one that the processor has it by then.
template <bool one_tile>
struct Int16Block {
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

// sums[r][j] of products of x's pairs, pair p of row r at x + p * pair_step + r * row_step, with pairs
// [p0, p1) of a block, `stride` lanes each, N vectors from lane `at`.
template <size_t R, size_t N, class Block>
EDGELLM_INLINE void multiply_pairs(const int16_t* x, size_t pair_step, size_t row_step, Block block,
                                   size_t stride, size_t p0, size_t p1, size_t at, I32 (&sums)[R][N]) {
    each_sum(sums, [&](auto, auto, I32& sum) EDGELLM_INLINE_LAMBDA { sum = splat_int(0); });
    for (size_t p = p0; p < p1; ++p) {
        I32 y[N];
        block.prefetch(p * stride + at, N * kLanes);
        unrolled<N>([&](auto j) EDGELLM_INLINE_LAMBDA { y[j] = block.at(p * stride + at + j * kLanes); });
        unrolled<R>([&](auto r) EDGELLM_INLINE_LAMBDA {
            const I32 pair = splat_pair(x + p * pair_step + r * row_step);
            unrolled<N>([&](auto j) EDGELLM_INLINE_LAMBDA {
                sums[r][j] = add_pair_products(sums[r][j], pair, y[j]);
            });
        });
    }
}

// Scales of a block's keys and values, 32 each, from the lowest bits of its keys.
inline void read_scales(const int16_t* keys, float* key_scales, float* value_scales) {
    for (size_t at = 0; at < kKvBlockTokens; at += kLanes) {
        U32 bits = (U32)splat_int(0);
        unrolled<kScalePairs>([&](auto p) EDGELLM_INLINE_LAMBDA {
            bits |= ((U32)load_pairs(keys + 2 * (p * kKvBlockTokens + at)) & 0x00030003u) << unsigned{2 * p};
        });
        store(key_scales + at, (F32)(bits << 23 | kScaleMantissa));
        store(value_scales + at, (F32)((bits << 7 & 0x7f800000u) | kScaleMantissa));
    }
}

// logits[r][0..32) = q . keys, less the scale of q; q [n_pairs][R][2].
template <size_t R, class Block>
void dot_integer_tile(const int16_t* q, Block keys, const float* scales, size_t n_pairs, float* logits) {
    constexpr size_t N = tile_vectors(R);
    for (size_t at = 0; at < kKvBlockTokens; at += N * kLanes) {
        I32 sums[R][N];
        multiply_pairs(q, 2 * R, 2, keys, kKvBlockTokens, 0, n_pairs, at, sums);
        each_sum(sums, [&](auto r, auto j, I32 sum) EDGELLM_INLINE_LAMBDA {
            const F32 scale = load(scales + at + j * kLanes);
            store(logits + r * kLogitStride + at + j * kLanes, __builtin_convertvector(sum, F32) * scale);
        });
    }
}

// out[r] += scales[r * kChunkBlocks] * sum of weights[r][i] * values[i] over pairs [p0, p1) of tokens, for N
// vectors of dimensions from `at`.
template <size_t R, size_t N, class Block>
EDGELLM_INLINE void weigh_integer_vectors(const int16_t* weights, const float* scales, Block values,
                                          size_t stride, size_t p0, size_t p1, size_t at, float* out) {
    I32 sums[R][N];
    multiply_pairs(weights, 2, kWeightStride, values, stride, p0, p1, at, sums);
    each_sum(sums, [&](auto r, auto j, I32 sum) EDGELLM_INLINE_LAMBDA {
        float* to = out + r * stride + at + j * kLanes;
        store(to, fma(__builtin_convertvector(sum, F32), splat(scales[r * kChunkBlocks]), load(to)));
    });
}

template <size_t R, class Block>
void weigh_integer_tile(const int16_t* weights, const float* scales, Block values, size_t stride, size_t p0,
                        size_t p1, float* out) {
    constexpr size_t N = R * 4 <= kAccumulators ? 4 : 2;
    size_t at = 0;
    for (; at + N * kLanes <= stride; at += N * kLanes)
        weigh_integer_vectors<R, N>(weights, scales, values, stride, p0, p1, at, out);
    for (; at < stride; at += kLanes)
        weigh_integer_vectors<R, 1>(weights, scales, values, stride, p0, p1, at, out);
}

// Calls the tile of a row count known at run time.
template <class Block, size_t R = kTileRows>
void dot_integer_rows(size_t rows, const int16_t* q, Block keys, const float* scales, size_t n_pairs,
                      float* logits) {
    if constexpr (R > 1) {
        if (rows < R) return dot_integer_rows<Block, R - 1>(rows, q, keys, scales, n_pairs, logits);
    }
    dot_integer_tile<R>(q, keys, scales, n_pairs, logits);
}
template <class Block, size_t R = kTileRows>
void weigh_integer_rows(size_t rows, const int16_t* weights, const float* scales, Block values, size_t stride,
                        size_t p0, size_t p1, float* out) {
    if constexpr (R > 1) {
        if (rows < R)
            return weigh_integer_rows<Block, R - 1>(rows, weights, scales, values, stride, p0, p1, out);
    }
    weigh_integer_tile<R>(weights, scales, values, stride, p0, p1, out);
}

// A block's 32 weights as integers; returns their scale. `out` may begin before `weights` does.
EDGELLM_INLINE float integer_weights(const float* weights, float sum, int16_t* out) {
    const F32 inverse = splat(sum > kSmallestScale ? kWeightSum / sum : 0.0f);
    F32 w[kBlockVectors];
    unrolled<kBlockVectors>([&](auto j) EDGELLM_INLINE_LAMBDA { w[j] = load(weights + j * kLanes); });
    unrolled<kBlockVectors>(
        [&](auto j) EDGELLM_INLINE_LAMBDA { store_int16(out + j * kLanes, rounded_product(w[j], inverse)); });
    return sum * (1.0f / kWeightSum);
}

}  // namespace
}  // namespace edgellm
