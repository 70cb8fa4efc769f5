// SPDX-License-Identifier: MIT
// Attention over the lanes of a vec_*.h, included before this file.
//
// A row is one (query, head) pair. Rows are taken kTileRows at a time through a register tile, up to
// kGroupRows rows per pass over the keys. A chunk of 512 keys is done in two passes: logits of the whole
// chunk, its maximum, exp and sum; then the weighted values. Each row's float operations are a function of
// that row, the keys and the chunk alone.
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
    static constexpr bool kScaled = false;
    const uint16_t* data;
    Ahead ahead;
    EDGELLM_INLINE F32 at(size_t i) const { return load_half(data + i); }
    EDGELLM_INLINE void prefetch(size_t i, size_t n) const {
        for (size_t line = 0; line < n; line += 32) ahead.fetch(2 * (i + line));
    }
};
struct Int8Block {
    static constexpr bool kScaled = true;
    const int8_t* data;
    const uint16_t* scales;
    Ahead ahead;
    EDGELLM_INLINE F32 at(size_t i) const { return load_int8(data + i); }
    EDGELLM_INLINE void prefetch(size_t i, size_t) const { ahead.fetch(i); }
};
// Either, expanded.
template <bool scaled>
struct FloatBlock {
    static constexpr bool kScaled = scaled;
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

// Calls f with one head's keys or values of a block: as stored where `expanded` is nullptr, else as expanded.
// ahead: what comes next as stored.
template <class F>
EDGELLM_INLINE void with_block(KvType type, const uint8_t* data, Ahead ahead, size_t scales_offset,
                               const float* expanded, F f) {
    const auto* scales = reinterpret_cast<const uint16_t*>(data + scales_offset);
    if (type == KvType::kF16) {
        if (expanded == nullptr)
            f(HalfBlock{reinterpret_cast<const uint16_t*>(data), ahead});
        else
            f(FloatBlock<false>{expanded, nullptr});
    } else if (type == KvType::kF32) {
        f(FloatBlock<false>{reinterpret_cast<const float*>(data), nullptr});
    } else {
        if (expanded == nullptr)
            f(Int8Block{reinterpret_cast<const int8_t*>(data), scales, ahead});
        else
            f(FloatBlock<true>{expanded, scales});
    }
}

// Keys that the rows of a tile see, as blocks of the sequence.
struct Tile {
    size_t row, rows;  // rows [row, row + rows) of the group
    uint32_t first_key, last_key;
};

struct RowGroup {
    size_t n_rows, n_tiles;
    Tile tiles[kMaxTiles];
    KeyRange keys[kGroupRows];
    float max[kGroupRows], sum[kGroupRows];
};

size_t query_group(const AttentionShape& s) {
    return s.n_heads / s.n_kv_heads;
}

// Rows [first, first + n_rows) of the task, query by query: cuts them into tiles and packs the queries.
void plan_rows(const AttentionShape& s, const AttentionTask& task, size_t first, size_t n_rows, RowGroup* g,
               float* q) {
    const size_t group = query_group(s);
    g->n_rows = n_rows;
    g->n_tiles = (n_rows + kTileRows - 1) / kTileRows;
    size_t row = 0;
    for (size_t t = 0; t < g->n_tiles; ++t) {
        Tile& tile = g->tiles[t];
        tile.row = row;
        tile.rows = (n_rows - row + g->n_tiles - t - 1) / (g->n_tiles - t);  // even shares
        tile.first_key = UINT32_MAX;
        tile.last_key = 0;
        for (size_t r = 0; r < tile.rows; ++r) {
            const size_t query = (first + row + r) / group;
            const size_t head = task.kv_head * group + (first + row + r) % group;
            const float* x = task.q + query * task.q_stride + head * s.key_dim;
            float* packed = q + row * s.key_dim + r;
            for (size_t d = 0; d < s.key_dim; ++d) packed[d * tile.rows] = x[d] * s.scale;
            const KeyRange keys = visible_keys(s, task.position + static_cast<uint32_t>(query), task.n_keys);
            g->keys[row + r] = keys;
            if (keys.first < tile.first_key) tile.first_key = keys.first;
            if (keys.last > tile.last_key) tile.last_key = keys.last;
        }
        row += tile.rows;
    }
}

// logits [begin, end) become exp(logit - max); those outside the row's keys [first, last) become 0.
void exponentiate(const AttentionShape& s, float* logits, size_t begin, size_t end, size_t first, size_t last,
                  float* max_out, float* sum_out) {
    if (s.softcap > 0.0f) {
        const F32 cap = splat(s.softcap), inverse = splat(1.0f / s.softcap);
        for (size_t i = begin; i < end; i += kLanes)
            store(logits + i, tanh(load(logits + i) * inverse) * cap);
    }
    for (size_t i = begin; i < first; ++i) logits[i] = -__builtin_inff();
    for (size_t i = last; i < end; ++i) logits[i] = -__builtin_inff();
    // max drops NaN; it comes back as exp(NaN), and as a NaN sum.
    F32 high = negative_infinity();
    for (size_t i = begin; i < end; i += kLanes) high = max(load(logits + i), high);
    float top = reduce_max(high);
    if (top == -__builtin_inff()) top = 0.0f;
    F32 sum = splat(0.0f);
    for (size_t i = begin; i < end; i += kLanes) {
        const F32 p = exp_nonpositive(load(logits + i) - top);
        store(logits + i, p);
        sum = sum + p;
    }
    *max_out = top;
    *sum_out = reduce_add(sum);
}

// The chunk's part of keys [first, last), in whole blocks relative to the chunk.
struct Span {
    size_t begin, end;
};
Span block_span(uint32_t first, uint32_t last, uint32_t chunk) {
    const size_t base = size_t{chunk} * kKvChunkTokens;
    const size_t from = first > base ? first - base : 0;
    const size_t to = last > base ? last - base : 0;
    return {from / kKvBlockTokens * kKvBlockTokens,
            round_up(to < kKvChunkTokens ? to : kKvChunkTokens, kKvBlockTokens)};
}

// Max, sum and weighted values of every row over one chunk.
void attend_rows(const AttentionShape& s, const AttentionTask& task, uint32_t chunk, RowGroup* g,
                 float* scratch) {
    const ScratchLayout at = scratch_layout(s);
    float* const q = scratch + at.q;
    float* const logits = scratch + at.logits;
    float* const values = scratch + at.values;
    float* const expanded = scratch + at.expanded;
    const size_t stride = value_stride(s);
    const size_t base = size_t{chunk} * kKvChunkTokens;

    Span spans[kMaxTiles];
    Span all = {kKvChunkTokens, 0};
    for (size_t t = 0; t < g->n_tiles; ++t) {
        spans[t] = block_span(g->tiles[t].first_key, g->tiles[t].last_key, chunk);
        if (spans[t].begin >= spans[t].end) continue;
        if (spans[t].begin < all.begin) all.begin = spans[t].begin;
        if (spans[t].end > all.end) all.end = spans[t].end;
    }
    // One tile reads the cache as it is; several share an expanded copy. Floats need no copy.
    const bool direct = g->n_tiles == 1 || s.kv_type == KvType::kF32;

    const bool far = is_amd();
    // A head's keys or values of a block are one page: the processor itself does not fetch the next one
    // ahead. After the last keys come the first values.
    for (size_t b = all.begin; b < all.end; b += kKvBlockTokens) {
        uint8_t* const* blocks = task.blocks + (base + b) / kKvBlockTokens;
        const uint8_t* block = blocks[0] + key_offset(s, task.kv_head);
        const bool is_last = b + kKvBlockTokens >= all.end;
        const uint8_t* ahead =
            is_last ? task.blocks[(base + all.begin) / kKvBlockTokens] + value_offset(s, task.kv_head)
                    : blocks[1] + key_offset(s, task.kv_head);
        if (!direct) expand(s.kv_type, block, s.key_dim * kKvBlockTokens, expanded);
        with_block(s.kv_type, block, {ahead, far}, key_scales_offset(s), direct ? nullptr : expanded,
                   [&](auto keys) {
                       for (size_t t = 0; t < g->n_tiles; ++t) {
                           if (b < spans[t].begin || b >= spans[t].end) continue;
                           const Tile& tile = g->tiles[t];
                           dot_rows(tile.rows, q + tile.row * s.key_dim, keys, s.key_dim,
                                    logits + tile.row * kLogitStride + b);
                       }
                   });
    }

    for (size_t t = 0; t < g->n_tiles; ++t) {
        const Tile& tile = g->tiles[t];
        for (size_t r = tile.row; r < tile.row + tile.rows; ++r) {
            float* o = values + r * stride;
            for (size_t i = 0; i < stride; i += kLanes) store(o + i, splat(0.0f));
            const Span span = spans[t];
            g->max[r] = -__builtin_inff();
            g->sum[r] = 0.0f;
            if (span.begin >= span.end) continue;
            size_t first = g->keys[r].first > base ? g->keys[r].first - base : 0;
            size_t last = g->keys[r].last > base ? g->keys[r].last - base : 0;
            if (first > span.end) first = span.end;
            if (first < span.begin) first = span.begin;
            if (last > span.end) last = span.end;
            if (last < span.begin) last = span.begin;
            exponentiate(s, logits + r * kLogitStride, span.begin, span.end, first, last, &g->max[r],
                         &g->sum[r]);
        }
    }

    const size_t end = g->tiles[g->n_tiles - 1].last_key - base;  // the last tile sees furthest
    for (size_t b = all.begin; b < all.end; b += kKvBlockTokens) {
        uint8_t* const* blocks = task.blocks + (base + b) / kKvBlockTokens;
        const uint8_t* block = blocks[0] + value_offset(s, task.kv_head);
        const bool is_last = b + kKvBlockTokens >= all.end;
        const uint8_t* ahead = is_last ? block : blocks[1] + value_offset(s, task.kv_head);
        // Slots past the last key may never have been written: 0 times what they hold need not be 0.
        const size_t written = end - b < kKvBlockTokens ? end - b : kKvBlockTokens;
        if (!direct) expand(s.kv_type, block, written * stride, expanded);
        with_block(s.kv_type, block, {ahead, far}, value_scales_offset(s), direct ? nullptr : expanded,
                   [&](auto rows) {
                       for (size_t t = 0; t < g->n_tiles; ++t) {
                           if (b < spans[t].begin || b >= spans[t].end) continue;
                           const Tile& tile = g->tiles[t];
                           const size_t first = tile.first_key > base + b ? tile.first_key - base - b : 0;
                           const size_t seen = tile.last_key - base - b;
                           weigh_rows(tile.rows, logits + tile.row * kLogitStride + b, rows, stride, first,
                                      seen < kKvBlockTokens ? seen : kKvBlockTokens,
                                      values + tile.row * stride);
                       }
                   });
    }
}

// Adds a chunk's (max, sum, values) to a row's running ones. sum == 0: nothing was seen.
void merge_row(float* out, size_t n, float* max_inout, float* sum_inout, float max, float sum,
               const float* values) {
    if (sum == 0.0f) return;
    if (*sum_inout == 0.0f) {
        __builtin_memcpy(out, values, n * sizeof(float));
        *max_inout = max;
        *sum_inout = sum;
        return;
    }
    const float top = *max_inout > max ? *max_inout : max;
    const float a = exp_nonpositive_1(*max_inout - top), b = exp_nonpositive_1(max - top);
    *max_inout = top;
    *sum_inout = *sum_inout * a + sum * b;
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(out + i, fma(load(values + i), splat(b), load(out + i) * a));
    if (i < n) {
        const F32 v = fma(load_part(values + i, n - i), splat(b), load_part(out + i, n - i) * a);
        store_part(out + i, v, n - i);
    }
}

// Divides by the sum, to which a sink's share is added first.
void finish_row(float* out, size_t n, float max, float sum, const float* sink) {
    if (sum == 0.0f) {
        for (size_t i = 0; i < n; ++i) out[i] = 0.0f;
        return;
    }
    float factor = 1.0f;
    if (sink != nullptr) {
        const float top = max > *sink ? max : *sink;
        factor = exp_nonpositive_1(max - top);
        sum = sum * factor + exp_nonpositive_1(*sink - top);
    }
    factor /= sum;
    for (size_t i = 0; i < n; ++i) out[i] *= factor;
}

const float* head_sink(const AttentionShape& s, size_t head) {
    return s.sinks == nullptr ? nullptr : s.sinks + head;
}

void attend(const AttentionShape& s, const AttentionTask& task, float* scratch) {
    const size_t group = query_group(s);
    const size_t n_rows = task.n_queries * group;
    const ScratchLayout at = scratch_layout(s);
    for (size_t row = 0; row < n_rows; row += kGroupRows) {
        RowGroup g;
        plan_rows(s, task, row, n_rows - row < kGroupRows ? n_rows - row : kGroupRows, &g, scratch + at.q);
        float max[kGroupRows], sum[kGroupRows];
        uint32_t first = UINT32_MAX, last = 0;
        for (size_t r = 0; r < g.n_rows; ++r) {
            max[r] = sum[r] = 0.0f;
            if (g.keys[r].first < first) first = g.keys[r].first;
            if (g.keys[r].last > last) last = g.keys[r].last;
        }
        for (uint32_t chunk = first / kKvChunkTokens; chunk * kKvChunkTokens < last; ++chunk) {
            attend_rows(s, task, chunk, &g, scratch);
            for (size_t r = 0; r < g.n_rows; ++r) {
                float* out = task.out + (row + r) / group * task.out_stride +
                             (task.kv_head * group + (row + r) % group) * s.value_dim;
                merge_row(out, s.value_dim, &max[r], &sum[r], g.max[r], g.sum[r],
                          scratch + at.values + r * value_stride(s));
            }
        }
        for (size_t r = 0; r < g.n_rows; ++r) {
            const size_t head = task.kv_head * group + (row + r) % group;
            float* out = task.out + (row + r) / group * task.out_stride + head * s.value_dim;
            finish_row(out, s.value_dim, max[r], sum[r], head_sink(s, head));
        }
    }
}

void attend_chunk(const AttentionShape& s, const AttentionTask& task, uint32_t chunk, float* partials,
                  float* scratch) {
    const size_t group = query_group(s);
    const ScratchLayout at = scratch_layout(s);
    for (size_t row = 0; row < group; row += kGroupRows) {
        RowGroup g;
        plan_rows(s, task, row, group - row < kGroupRows ? group - row : kGroupRows, &g, scratch + at.q);
        attend_rows(s, task, chunk, &g, scratch);
        for (size_t r = 0; r < g.n_rows; ++r) {
            float* partial = partials + (row + r) * partial_size(s);
            partial[0] = g.max[r];
            partial[1] = g.sum[r];
            __builtin_memcpy(partial + 2, scratch + at.values + r * value_stride(s),
                             s.value_dim * sizeof(float));
        }
    }
}

void merge(const AttentionShape& s, const AttentionTask& task, uint32_t first, uint32_t last,
           const float* partials, size_t chunk_stride) {
    const size_t group = query_group(s);
    for (size_t r = 0; r < group; ++r) {
        const size_t head = task.kv_head * group + r;
        float* out = task.out + head * s.value_dim;
        float max = 0.0f, sum = 0.0f;
        for (uint32_t chunk = first; chunk < last; ++chunk) {
            const float* partial = partials + (chunk - first) * chunk_stride + r * partial_size(s);
            merge_row(out, s.value_dim, &max, &sum, partial[0], partial[1], partial + 2);
        }
        finish_row(out, s.value_dim, max, sum, head_sink(s, head));
    }
}

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

constexpr AttentionKernels kKernels = {write, attend, attend_chunk, merge};

}  // namespace
}  // namespace edgellm
