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

// Keys or values of one block of the cache. Those of a kQ8_0 cache are integers: their scales, one per 32
// dimensions and token, [dimension / 32][token], are applied to logits and weights instead. `ahead` is the
// block to come, asked for line by line while this one is gone through: all at once its lines arrive more
// slowly. `far`: into L2, which keeps more lines of Zen 4 under way.
struct Ahead {
    const uint8_t* block;
    bool far;
    EDGELLM_INLINE void fetch(size_t offset) const {
        if (far) {
            __builtin_prefetch(block + offset, 0, 2);
        } else {
            __builtin_prefetch(block + offset);
        }
    }
};
struct HalfBlock {
    static constexpr bool kIntegers = false, kScaled = false;
    const uint16_t* data;
    Ahead ahead;
    EDGELLM_INLINE F32 at(size_t i) const { return load_half(data + i); }
    EDGELLM_INLINE void prefetch(size_t i, size_t n) const {
        for (size_t line = 0; line < n; line += 32) ahead.fetch(2 * (i + line));
    }
};
struct Int8Block {
    static constexpr bool kIntegers = false, kScaled = true;
    const int8_t* data;
    const uint16_t* scales;
    Ahead ahead;
    EDGELLM_INLINE F32 at(size_t i) const { return load_int8(data + i); }
    EDGELLM_INLINE void prefetch(size_t i, size_t) const { ahead.fetch(i); }
};
// Either, expanded.
template <bool scaled>
struct FloatBlock {
    static constexpr bool kIntegers = false, kScaled = scaled;
    const float* data;
    const uint16_t* scales;
    EDGELLM_INLINE F32 at(size_t i) const { return load(data + i); }
    EDGELLM_INLINE void prefetch(size_t, size_t) const {}
};

// An R x N tile of accumulators: f(r, j, accumulator).
template <size_t R, size_t N, class F>
EDGELLM_INLINE void each_cell(F32 (&acc)[R][N], F f) {
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

// out[r] += sum of p[r][i] * values[i] over keys [i0, i1), for N vectors of dimensions from `at`.
template <size_t R, size_t N, class Block>
EDGELLM_INLINE void weigh_vectors(const float* p, size_t p_stride, Block values, size_t stride, size_t i0,
                                  size_t i1, size_t at, float* out) {
    F32 acc[R][N];
    each_cell(acc, [&](auto r, auto j, F32& a)
                       EDGELLM_INLINE_LAMBDA { a = load(out + r * stride + at + j * kLanes); });
    for (size_t i = i0; i < i1; ++i) {
        F32 v[N];
        values.prefetch(i * stride + at, N * kLanes);
        unrolled<N>([&](auto j) EDGELLM_INLINE_LAMBDA { v[j] = values.at(i * stride + at + j * kLanes); });
        unrolled<R>([&](auto r) EDGELLM_INLINE_LAMBDA {
            const F32 x = splat(p[r * p_stride + i]);
            unrolled<N>([&](auto j) EDGELLM_INLINE_LAMBDA { acc[r][j] = fma(x, v[j], acc[r][j]); });
        });
    }
    each_cell(acc, [&](auto r, auto j, F32 a)
                       EDGELLM_INLINE_LAMBDA { store(out + r * stride + at + j * kLanes, a); });
}

// Dimensions [from, to), whole vectors.
template <size_t R, class Block>
EDGELLM_INLINE void weigh_range(const float* p, size_t p_stride, Block values, size_t stride, size_t i0,
                                size_t i1, size_t from, size_t to, float* out) {
    constexpr size_t N = R * 4 <= kAccumulators ? 4 : 2;
    for (; from + N * kLanes <= to; from += N * kLanes)
        weigh_vectors<R, N>(p, p_stride, values, stride, i0, i1, from, out);
    if constexpr (N == 4) {
        for (; from + 2 * kLanes <= to; from += 2 * kLanes)
            weigh_vectors<R, 2>(p, p_stride, values, stride, i0, i1, from, out);
    }
    for (; from < to; from += kLanes) weigh_vectors<R, 1>(p, p_stride, values, stride, i0, i1, from, out);
}

template <size_t R, class Block>
EDGELLM_INLINE void weigh_tile(const float* p, Block values, size_t stride, size_t i0, size_t i1,
                               float* out) {
    if constexpr (!Block::kScaled) {
        weigh_range<R>(p, kLogitStride, values, stride, i0, i1, 0, stride, out);
    } else {
        for (size_t d = 0; d < stride; d += kQuantGroup) {
            alignas(64) float scaled[R][kKvBlockTokens];
            for (size_t i = 0; i < kKvBlockTokens; i += kLanes) {
                const F32 scale = load_half(values.scales + d + i);
                for (size_t r = 0; r < R; ++r) store(scaled[r] + i, load(p + r * kLogitStride + i) * scale);
            }
            const size_t end = d + kQuantGroup < stride ? d + kQuantGroup : stride;
            weigh_range<R>(scaled[0], kKvBlockTokens, values, stride, i0, i1, d, end, out);
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
void weigh_rows(size_t rows, const float* p, Block values, size_t stride, size_t i0, size_t i1, float* out) {
    if constexpr (R > 1) {
        if (rows < R) return weigh_rows<Block, R - 1>(rows, p, values, stride, i0, i1, out);
    }
    weigh_tile<R>(p, values, stride, i0, i1, out);
}

// n stored keys or values (kF16 or kQ8_0) as floats, without their scales; n is a multiple of 16.
void expand(KvType type, const uint8_t* data, size_t n, float* out) {
    if (type == KvType::kF16) {
        const auto* half = reinterpret_cast<const uint16_t*>(data);
        for (size_t i = 0; i < n; i += kLanes) store(out + i, load_half(half + i));
    } else {
        const auto* ints = reinterpret_cast<const int8_t*>(data);
        for (size_t i = 0; i < n; i += kLanes) store(out + i, load_int8(ints + i));
    }
}

}  // namespace
}  // namespace edgellm
