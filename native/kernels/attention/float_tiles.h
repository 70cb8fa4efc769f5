// SPDX-License-Identifier: MIT
// Products of a tile of rows with one block of the cache, in floats. Included after a vec_*.h.
#pragma once

#include "base/vec_math.h"
#include "kernels/attention/layout.h"

namespace edgellm {
namespace {

// Accumulators of a tile fill the registers, less those that hold two vectors of keys or values and a
// broadcast.
constexpr size_t kTileRows = kRegisters >= 32 ? 12 : 6;
constexpr size_t kAccumulators = 2 * kTileRows;
constexpr size_t kBlockVectors = kKvBlockTokens / kLanes;
constexpr size_t kMaxTiles = (kGroupRows + kTileRows - 1) / kTileRows;

// Vectors per row of a tile: as many as keep the multipliers busy within the accumulators, a power of two.
constexpr size_t tile_vectors(size_t rows) {
    size_t n = kBlockVectors < 2 ? 1 : 2;
    while (n * 2 <= kBlockVectors && n < 4 && rows * n * 2 <= kAccumulators) n *= 2;
    return n;
}
constexpr size_t value_vectors(size_t rows) {
    return rows * 4 <= kAccumulators ? 4 : 2;
}

// A block to come, fetched line by line while another one is read: asked for all at once its lines arrive
// more slowly.
struct Ahead {
    const uint8_t* block;
    bool into_l2;
    EDGELLM_INLINE void fetch(size_t offset) const {
        if (into_l2) {
            __builtin_prefetch(block + offset, 0, 2);
        } else {
            __builtin_prefetch(block + offset);
        }
    }
};

// One head's keys or values of a block as stored, and how to read them.
struct StoredBlock {
    const uint8_t* data;
    size_t n;          // numbers, a multiple of 16
    size_t n_written;  // numbers that may be read
    bool one_tile;     // reads what is stored; several tiles share a copy as floats, where that costs less
    float* copy;       // room for n floats
    Ahead ahead;
};

// A block of floats, as stored or copied. kScaled: 32 dimensions of a token share a scale, [dimension /
// 32][token], which is applied to logits and weights instead.
template <bool scaled>
struct FloatBlock {
    static constexpr bool kIntegers = false, kScaled = scaled;
    const float* data;
    const uint16_t* scales;
    EDGELLM_INLINE F32 at(size_t i) const { return load(data + i); }
    EDGELLM_INLINE void prefetch(size_t, size_t) const {}
};

// Row r of a query tile of `rows` rows, [key_dim][rows].
EDGELLM_INLINE void pack_query(const float* x, size_t key_dim, size_t rows, float* packed) {
    for (size_t d = 0; d < key_dim; ++d) packed[d * rows] = x[d];
}

// An R x N tile of accumulators: f(r, j, accumulator).
template <size_t R, size_t N, class V, class F>
EDGELLM_INLINE void each_cell(V (&acc)[R][N], F f) {
    unrolled<R>([&](auto r) EDGELLM_INLINE_LAMBDA {
        unrolled<N>([&](auto j) EDGELLM_INLINE_LAMBDA { f(r, j, acc[r][j]); });
    });
}

// f(r, j, sum of q[d][r] * keys[d][at + j's lanes] over dimensions [d0, d1)).
template <size_t R, size_t N, class Block, class F>
EDGELLM_INLINE void dot_vectors(const float* q, Block keys, size_t d0, size_t d1, size_t at, F f) {
    F32 acc[R][N];
    each_cell(acc, [&](auto, auto, F32& a) EDGELLM_INLINE_LAMBDA { a = splat(0.0f); });
    for (size_t d = d0; d < d1; ++d) {
        F32 k[N];
        keys.prefetch(d * kKvBlockTokens + at, N * kLanes);
        unrolled<N>([&](auto j)
                        EDGELLM_INLINE_LAMBDA { k[j] = keys.at(d * kKvBlockTokens + at + j * kLanes); });
        unrolled<R>([&](auto r) EDGELLM_INLINE_LAMBDA {
            const F32 x = splat(q[d * R + r]);
            unrolled<N>([&](auto j) EDGELLM_INLINE_LAMBDA { acc[r][j] = fma(x, k[j], acc[r][j]); });
        });
    }
    each_cell(acc, f);
}

// logits[r][0..32) = q . keys; q [key_dim][R], keys [key_dim][32].
template <size_t R, class Block>
EDGELLM_INLINE void dot_tile(const float* q, Block keys, size_t key_dim, float* logits) {
    constexpr size_t N = tile_vectors(R);
    for (size_t at = 0; at < kKvBlockTokens; at += N * kLanes) {
        if constexpr (!Block::kScaled) {
            dot_vectors<R, N>(q, keys, 0, key_dim, at, [&](auto r, auto j, F32 sum) EDGELLM_INLINE_LAMBDA {
                store(logits + r * kLogitStride + at + j * kLanes, sum);
            });
        } else {
            for (size_t d = 0; d < key_dim; d += kQuantGroup) {
                const uint16_t* scales = keys.scales + d + at;  // row d / 32 of 32 tokens
                const size_t end = d + kQuantGroup < key_dim ? d + kQuantGroup : key_dim;
                dot_vectors<R, N>(q, keys, d, end, at, [&](auto r, auto j, F32 sum) EDGELLM_INLINE_LAMBDA {
                    float* to = logits + r * kLogitStride + at + j * kLanes;
                    const F32 scale = load_half(scales + j * kLanes);
                    store(to, d == 0 ? sum * scale : fma(sum, scale, load(to)));
                });
            }
        }
    }
}

// The weights of a tile's rows for tokens [first, last) of a block, and the sums of weighted values that they
// add to.
struct FloatSums {
    const float* weights;  // row r: weights + r * weight_stride
    size_t weight_stride;
    size_t first, last;
    float* out;     // row r: out + r * stride
    size_t stride;  // of the values, too
};

// out[r] += sum of weights[r][i] * values[i], for N vectors of dimensions from `at`.
template <size_t R, size_t N, class Block>
EDGELLM_INLINE void accumulate_vectors(const FloatSums& s, Block values, size_t at) {
    F32 acc[R][N];
    each_cell(acc, [&](auto r, auto j, F32& a)
                       EDGELLM_INLINE_LAMBDA { a = load(s.out + r * s.stride + at + j * kLanes); });
    for (size_t i = s.first; i < s.last; ++i) {
        F32 v[N];
        values.prefetch(i * s.stride + at, N * kLanes);
        unrolled<N>([&](auto j) EDGELLM_INLINE_LAMBDA { v[j] = values.at(i * s.stride + at + j * kLanes); });
        unrolled<R>([&](auto r) EDGELLM_INLINE_LAMBDA {
            const F32 x = splat(s.weights[r * s.weight_stride + i]);
            unrolled<N>([&](auto j) EDGELLM_INLINE_LAMBDA { acc[r][j] = fma(x, v[j], acc[r][j]); });
        });
    }
    each_cell(acc, [&](auto r, auto j, F32 a)
                       EDGELLM_INLINE_LAMBDA { store(s.out + r * s.stride + at + j * kLanes, a); });
}

// Dimensions [from, to), whole vectors.
template <size_t R, class Block>
EDGELLM_INLINE void accumulate_range(const FloatSums& s, Block values, size_t from, size_t to) {
    constexpr size_t N = value_vectors(R);
    for (; from + N * kLanes <= to; from += N * kLanes) accumulate_vectors<R, N>(s, values, from);
    if constexpr (N == 4) {
        for (; from + 2 * kLanes <= to; from += 2 * kLanes) accumulate_vectors<R, 2>(s, values, from);
    }
    for (; from < to; from += kLanes) accumulate_vectors<R, 1>(s, values, from);
}

template <size_t R, class Block>
EDGELLM_INLINE void accumulate_tile(const FloatSums& s, Block values) {
    if constexpr (!Block::kScaled) {
        const FloatSums local = s;  // a copy stays in registers
        accumulate_range<R>(local, values, 0, local.stride);
    } else {
        for (size_t d = 0; d < s.stride; d += kQuantGroup) {
            alignas(64) float scaled[R][kKvBlockTokens];
            for (size_t i = 0; i < kKvBlockTokens; i += kLanes) {
                const F32 scale = load_half(values.scales + d + i);
                for (size_t r = 0; r < R; ++r)
                    store(scaled[r] + i, load(s.weights + r * s.weight_stride + i) * scale);
            }
            const size_t end = d + kQuantGroup < s.stride ? d + kQuantGroup : s.stride;
            accumulate_range<R>({scaled[0], kKvBlockTokens, s.first, s.last, s.out, s.stride}, values, d,
                                end);
        }
    }
}

// Calls the tile of a row count known at run time.
template <class Block, size_t R = kTileRows>
void dot_rows(size_t rows, const float* q, Block keys, size_t key_dim, float* logits) {
    if constexpr (R > 1) {
        if (rows < R) return dot_rows<Block, R - 1>(rows, q, keys, key_dim, logits);
    }
    dot_tile<R>(q, keys, key_dim, logits);
}
template <class Block, size_t R = kTileRows>
void accumulate_rows(size_t rows, const FloatSums& s, Block values) {
    if constexpr (R > 1) {
        if (rows < R) return accumulate_rows<Block, R - 1>(rows, s, values);
    }
    accumulate_tile<R>(s, values);
}

}  // namespace
}  // namespace edgellm
