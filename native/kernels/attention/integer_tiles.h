// SPDX-License-Identifier: MIT
// Products of a tile of rows with one block of an i16 cache, in 16-bit integers. Included after a vec_*.h.
//
// A multiplication of pairs of 16-bit integers does twice the work of one of floats, and integers are read as
// they are stored. The scales below keep sums within 32 bits, so that they are exact.
#pragma once

#include "kernels/attention/float_tiles.h"

namespace edgellm {
namespace {

// Norm of a query, a key or a value in integers: |q . k| <= |q| |k|, so a product is below 2^30, and no
// integer needs more than 16 bits.
constexpr float kIntegerNorm = 32767.0f;
// Sum of the weights of a block's 32 tokens, up to rounding: sums of weighted values stay below 2^30, too.
constexpr float kWeightSum = 32767.0f;
// Larger values count as this one, so that squares may be summed. Values whose scale would be smaller count
// as 0.
constexpr float kLargestValue = 1e17f;
constexpr float kSmallestScale = 1e-30f;

constexpr size_t kBlockPairs = kKvBlockTokens / 2;

// The scale at which n values are integers within the norm; NaN if one of them is.
inline float integer_scale(const float* x, size_t n) {
    F32 squares = splat(0.0f);
    each_vector(n, [&](size_t i, size_t count) EDGELLM_INLINE_LAMBDA {
        const F32 v = clamp_magnitude(load_count(x + i, count), kLargestValue);
        squares = fma(v, v, squares);
    });
    return __builtin_sqrtf(reduce_add(squares)) * (1.0f / kIntegerNorm);
}

// n values of a scale as integers, and zeros after them up to n_out or a little more, a multiple of 16.
inline void to_integers(const float* x, size_t n, float scale, size_t n_out, int16_t* out) {
    const F32 inverse = splat(scale > kSmallestScale ? 1.0f / scale : 0.0f);
    for (size_t i = 0; i < round_up(n_out, 16); i += kLanes) {
        const F32 v = i + kLanes <= n ? load(x + i) : i < n ? load_part(x + i, n - i) : splat(0.0f);
        store_int16(out + i, nearest_int_product(clamp_magnitude(v, kLargestValue), inverse));
    }
}

// Row r of a query tile of `rows` rows, [pairs][rows][2]; ints: room for the query. Returns its scale.
inline float pack_integer_query(const AttentionShape& s, const float* x, size_t rows, int16_t* ints,
                                int16_t* packed) {
    const float scale = integer_scale(x, s.key_dim);
    to_integers(x, s.key_dim, scale, 2 * key_pairs(s), ints);
    for (size_t p = 0; p < key_pairs(s); ++p) __builtin_memcpy(packed + 2 * p * rows, ints + 2 * p, 4);
    return scale;
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

// Pairs [first, last) of a tile's rows: pair p of row r at data + p * pair_step + r * row_step.
struct PairRows {
    const int16_t* data;
    size_t pair_step, row_step;
    size_t first, last;
};

// sums[r][j] of products of the rows' pairs with those of a block, `stride` lanes each, for N vectors from
// lane `at`.
template <size_t R, size_t N, class Block>
EDGELLM_INLINE void multiply_pairs(const PairRows& x, Block block, size_t stride, size_t at,
                                   I32 (&sums)[R][N]) {
    each_cell(sums, [&](auto, auto, I32& sum) EDGELLM_INLINE_LAMBDA { sum = splat_int(0); });
    for (size_t p = x.first; p < x.last; ++p) {
        I32 y[N];
        block.prefetch(p * stride + at, N * kLanes);
        unrolled<N>([&](auto j) EDGELLM_INLINE_LAMBDA { y[j] = block.at(p * stride + at + j * kLanes); });
        unrolled<R>([&](auto r) EDGELLM_INLINE_LAMBDA {
            const I32 pair = splat_pair(x.data + p * x.pair_step + r * x.row_step);
            unrolled<N>([&](auto j) EDGELLM_INLINE_LAMBDA {
                sums[r][j] = add_pair_products(sums[r][j], pair, y[j]);
            });
        });
    }
}

// logits[r][0..32) = q . keys, without the scale of q; q [n_pairs][R][2].
template <size_t R, class Block>
void dot_integer_tile(const int16_t* q, Block keys, const float* scales, size_t n_pairs, float* logits) {
    constexpr size_t N = tile_vectors(R);
    for (size_t at = 0; at < kKvBlockTokens; at += N * kLanes) {
        I32 sums[R][N];
        multiply_pairs({q, 2 * R, 2, 0, n_pairs}, keys, kKvBlockTokens, at, sums);
        each_cell(sums, [&](auto r, auto j, I32 sum) EDGELLM_INLINE_LAMBDA {
            const F32 scale = load(scales + at + j * kLanes);
            store(logits + r * kLogitStride + at + j * kLanes, __builtin_convertvector(sum, F32) * scale);
        });
    }
}

// The weights of a tile's rows for pairs [first, last) of a block's tokens, and the sums of weighted values
// that they add to.
struct IntegerSums {
    const int16_t* weights;  // row r: weights + r * kWeightStride
    const float* scales;     // row r: scales[r * kChunkBlocks]
    size_t first, last;
    float* out;     // row r: out + r * stride
    size_t stride;  // of the values, too
};

// out[r] += scale[r] * sum of weights[r][i] * values[i], for N vectors of dimensions from `at`.
template <size_t R, size_t N, class Block>
EDGELLM_INLINE void accumulate_integer_vectors(const IntegerSums& s, Block values, size_t at) {
    I32 sums[R][N];
    multiply_pairs({s.weights, 2, kWeightStride, s.first, s.last}, values, s.stride, at, sums);
    each_cell(sums, [&](auto r, auto j, I32 sum) EDGELLM_INLINE_LAMBDA {
        float* to = s.out + r * s.stride + at + j * kLanes;
        store(to, fma(__builtin_convertvector(sum, F32), splat(s.scales[r * kChunkBlocks]), load(to)));
    });
}

template <size_t R, class Block>
void accumulate_integer_tile(const IntegerSums& s, Block values) {
    constexpr size_t N = value_vectors(R);
    size_t at = 0;
    for (; at + N * kLanes <= s.stride; at += N * kLanes) accumulate_integer_vectors<R, N>(s, values, at);
    for (; at < s.stride; at += kLanes) accumulate_integer_vectors<R, 1>(s, values, at);
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
void accumulate_integer_rows(size_t rows, const IntegerSums& s, Block values) {
    if constexpr (R > 1) {
        if (rows < R) return accumulate_integer_rows<Block, R - 1>(rows, s, values);
    }
    accumulate_integer_tile<R>(s, values);
}

// A block's 32 weights as integers; returns their scale. `out` may begin before `weights` does.
EDGELLM_INLINE float integer_weights(const float* weights, float sum, int16_t* out) {
    const F32 inverse = splat(sum > kSmallestScale ? kWeightSum / sum : 0.0f);
    F32 w[kBlockVectors];
    unrolled<kBlockVectors>([&](auto j) EDGELLM_INLINE_LAMBDA { w[j] = load(weights + j * kLanes); });
    unrolled<kBlockVectors>([&](auto j) EDGELLM_INLINE_LAMBDA {
        store_int16(out + j * kLanes, nearest_int_product(w[j], inverse));
    });
    return sum * (1.0f / kWeightSum);
}

}  // namespace
}  // namespace edgellm
