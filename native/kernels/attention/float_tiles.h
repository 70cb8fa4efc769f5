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

// Sets with vectors of four lanes that multiply by one of them at no cost.
template <class V>
concept LaneVocabulary = V::kLanes == 4 && requires(typename V::F32 x, typename V::F32 (&rows)[4]) {
    // a * b[lane] + c, rounded once.
    { V::template fma_lane<3>(x, x, x) } -> std::same_as<typename V::F32>;
    // Lane i of row j becomes lane j of row i.
    { V::transpose(rows) } -> std::same_as<void>;
};

// The factor of one row: in every lane, or a lane of those of four rows where the set multiplies by one.
struct SplatFactor {
    F32 x;
    EDGELLM_INLINE void add_product(F32 v, F32& sum) const { sum = fma(x, v, sum); }
};
template <class V, int lane>
struct LaneFactor {
    F32 four;
    EDGELLM_INLINE void add_product(F32 v, F32& sum) const { sum = V::template fma_lane<lane>(v, four, sum); }
};

// Factors of a tile's rows, `stride` floats apart.
struct SplatFactors {
    const float* at;
    size_t stride;
    template <class Row>
    EDGELLM_INLINE SplatFactor of(Row r) const {
        return {splat(at[r * stride])};
    }
};
// Factors of R rows side by side. Those of two rows and more are read with up to three floats after them.
template <class V, size_t R>
struct LaneFactors {
    F32 fours[(R + 3) / 4];
    EDGELLM_INLINE explicit LaneFactors(const float* at) {
        unrolled<(R + 3) / 4>(
            [&](auto i) EDGELLM_INLINE_LAMBDA { fours[i] = R == 1 ? splat(*at) : load(at + 4 * i); });
    }
    template <class Row>
    EDGELLM_INLINE auto of(Row) const {
        return LaneFactor<V, Row::value % 4>{fours[Row::value / 4]};
    }
};

// f(i) for i in [first, last). Where loads are few, counting costs as much: two are done at a time.
template <class V = Vec, class F>
EDGELLM_INLINE void each_step(size_t first, size_t last, F f) {
    if constexpr (LaneVocabulary<V>) {
        for (; first + 2 <= last; first += 2) {
            f(first);
            f(first + 1);
        }
    }
    for (; first < last; ++first) f(first);
}

// Row i of factors [n][R].
template <size_t R, class V = Vec>
EDGELLM_INLINE auto packed_factors(const float* factors, size_t i) {
    if constexpr (LaneVocabulary<V>) {
        return LaneFactors<V, R>(factors + i * R);
    } else {
        return SplatFactors{factors + i * R, 1};
    }
}

// f(r, j, sum of q[d][r] * keys[d][at + j's lanes] over dimensions [d0, d1)).
template <size_t R, size_t N, class Block, class F>
EDGELLM_INLINE void dot_vectors(const float* q, Block keys, size_t d0, size_t d1, size_t at, F f) {
    F32 acc[R][N];
    each_cell(acc, [&](auto, auto, F32& a) EDGELLM_INLINE_LAMBDA { a = splat(0.0f); });
    each_step(d0, d1, [&](size_t d) EDGELLM_INLINE_LAMBDA {
        F32 k[N];
        keys.prefetch(d * kKvBlockTokens + at, N * kLanes);
        unrolled<N>([&](auto j)
                        EDGELLM_INLINE_LAMBDA { k[j] = keys.at(d * kKvBlockTokens + at + j * kLanes); });
        const auto factors = packed_factors<R>(q, d);
        unrolled<R>([&](auto r) EDGELLM_INLINE_LAMBDA {
            const auto x = factors.of(r);
            unrolled<N>([&](auto j) EDGELLM_INLINE_LAMBDA { x.add_product(k[j], acc[r][j]); });
        });
    });
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
    const float* weights;  // row r: weights + r * weight_stride; packed ones: [token][row]
    size_t weight_stride;
    size_t first, last;
    float* out;     // row r: out + r * stride
    size_t stride;  // of the values, too

    // Of R rows for token i.
    template <size_t R, class V = Vec>
    EDGELLM_INLINE auto factors(size_t i) const {
        if constexpr (LaneVocabulary<V>) {
            return LaneFactors<V, R>(weights + i * weight_stride);
        } else {
            return SplatFactors{weights + i, weight_stride};
        }
    }
};

// Weights of a tile for one block, side by side for each token, as a set wants them that multiplies by a
// lane. The weights of one row are so already.
template <size_t R, class V = Vec>
struct PackedWeights {
    static constexpr size_t kStride = R == 1 ? 1 : (R + 3) / 4 * 4;
    alignas(16) float weights[R == 1 ? 1 : kKvBlockTokens * kStride];

    EDGELLM_INLINE FloatSums pack(FloatSums s) {
        if constexpr (R > 1) {
            for (size_t i = 0; i < kKvBlockTokens; i += 4) {
                unrolled<kStride / 4>([&](auto g) EDGELLM_INLINE_LAMBDA {
                    F32 rows[4];
                    unrolled<4>([&](auto k) EDGELLM_INLINE_LAMBDA {
                        constexpr size_t row = 4 * g + k;
                        rows[k] = load(s.weights + (row < R ? row : R - 1) * s.weight_stride + i);
                    });
                    V::transpose(rows);
                    unrolled<4>([&](auto k) EDGELLM_INLINE_LAMBDA {
                        store(weights + (i + k) * kStride + 4 * g, rows[k]);
                    });
                });
            }
            s.weights = weights;
        }
        s.weight_stride = kStride;
        return s;
    }
};

// out[r] += sum of weights[r][i] * values[i], for N vectors of dimensions from `at`.
template <size_t R, size_t N, class Block>
EDGELLM_INLINE void accumulate_vectors(const FloatSums& s, Block values, size_t at) {
    F32 acc[R][N];
    each_cell(acc, [&](auto r, auto j, F32& a)
                       EDGELLM_INLINE_LAMBDA { a = load(s.out + r * s.stride + at + j * kLanes); });
    each_step(s.first, s.last, [&](size_t i) EDGELLM_INLINE_LAMBDA {
        F32 v[N];
        values.prefetch(i * s.stride + at, N * kLanes);
        unrolled<N>([&](auto j) EDGELLM_INLINE_LAMBDA { v[j] = values.at(i * s.stride + at + j * kLanes); });
        const auto factors = s.template factors<R>(i);
        unrolled<R>([&](auto r) EDGELLM_INLINE_LAMBDA {
            const auto x = factors.of(r);
            unrolled<N>([&](auto j) EDGELLM_INLINE_LAMBDA { x.add_product(v[j], acc[r][j]); });
        });
    });
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

template <size_t R, class Block, class V = Vec>
EDGELLM_INLINE void accumulate_packed(const FloatSums& s, Block values, size_t from, size_t to) {
    if constexpr (LaneVocabulary<V>) {
        PackedWeights<R, V> packed;
        accumulate_range<R>(packed.pack(s), values, from, to);
    } else {
        const FloatSums local = s;  // a copy stays in registers
        accumulate_range<R>(local, values, from, to);
    }
}

template <size_t R, class Block>
EDGELLM_INLINE void accumulate_tile(const FloatSums& s, Block values) {
    if constexpr (!Block::kScaled) {
        accumulate_packed<R>(s, values, 0, s.stride);
    } else {
        for (size_t d = 0; d < s.stride; d += kQuantGroup) {
            alignas(64) float scaled[R][kKvBlockTokens];
            for (size_t i = 0; i < kKvBlockTokens; i += kLanes) {
                const F32 scale = load_half(values.scales + d + i);
                for (size_t r = 0; r < R; ++r)
                    store(scaled[r] + i, load(s.weights + r * s.weight_stride + i) * scale);
            }
            const size_t end = d + kQuantGroup < s.stride ? d + kQuantGroup : s.stride;
            accumulate_packed<R>({scaled[0], kKvBlockTokens, s.first, s.last, s.out, s.stride}, values, d,
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
