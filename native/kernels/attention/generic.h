// SPDX-License-Identifier: MIT
// Attention over the lanes of a vec_*.h, included before this file.
//
// A row is one (query, head) pair. Rows are taken kTileRows at a time through a register tile, up to
// kGroupRows rows per pass over the keys. A chunk of 512 keys is done in two passes: logits of the whole
// chunk, its maximum, exp and sum; then the weighted values. Each row's float operations are a function of
// that row, the keys and the chunk alone.
#pragma once

#include "base/vec_math.h"
#include "kernels/attention/float_tiles.h"
#include "kernels/attention/integer_tiles.h"
#include "kernels/attention/store.h"

namespace edgellm {
namespace {

// Keys that the rows of a tile see, as blocks of the sequence.
struct Tile {
    size_t row, rows;  // rows [row, row + rows) of the group
    uint32_t first_key, last_key;
};

struct RowGroup {
    size_t n_rows, n_tiles;
    Tile tiles[kMaxTiles];
    KeyRange keys[kGroupRows];
    float factor[kGroupRows];  // of products of queries and keys: logits in units of log2
    float max[kGroupRows], sum[kGroupRows];
};

constexpr float kLog2E = 1.44269504f;

EDGELLM_INLINE I32 lane_numbers() {
    I32 v;
    for (size_t i = 0; i < kLanes; ++i) v[i] = static_cast<int32_t>(i);
    return v;
}

size_t query_group(const AttentionShape& s) {
    return s.n_heads / s.n_kv_heads;
}

// The queries of the tile that begins with `row`.
int16_t* integer_queries(const AttentionShape& s, float* scratch, size_t row) {
    return reinterpret_cast<int16_t*>(scratch + scratch_layout(s).q) + 2 * row * key_pairs(s);
}

// Rows [first, first + n_rows) of the task, query by query: cuts them into tiles and packs the queries.
void plan_rows(const AttentionShape& s, const AttentionTask& task, size_t first, size_t n_rows, RowGroup* g,
               float* scratch) {
    const ScratchLayout at = scratch_layout(s);
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
            if (s.kv_type == KvType::kI16) {
                auto* ints = reinterpret_cast<int16_t*>(scratch + at.expanded);
                auto* packed = integer_queries(s, scratch, row) + 2 * r;
                const float scale = integer_scale(x, s.key_dim);
                g->factor[row + r] = scale * s.scale * kLog2E;
                to_integers(x, s.key_dim, scale, 2 * key_pairs(s), ints);
                for (size_t p = 0; p < key_pairs(s); ++p)
                    __builtin_memcpy(packed + 2 * p * tile.rows, ints + 2 * p, 4);
            } else {
                float* packed = scratch + at.q + row * s.key_dim + r;
                g->factor[row + r] = s.scale * kLog2E;
                for (size_t d = 0; d < s.key_dim; ++d) packed[d * tile.rows] = x[d];
            }
            const KeyRange keys = visible_keys(s, task.position + static_cast<uint32_t>(query), task.n_keys);
            g->keys[row + r] = keys;
            if (keys.first < tile.first_key) tile.first_key = keys.first;
            if (keys.last > tile.last_key) tile.last_key = keys.last;
        }
        row += tile.rows;
    }
}

// Logits [begin, end) become powers of 2, which are exp(logit - max): `factor` makes units of log2 of them.
// Those outside the row's keys [first, last) become 0. f(b, powers, whether all are seen) takes them, block
// by block.
template <class F>
void exponentiate(const AttentionShape& s, float factor, float* logits, size_t begin, size_t end,
                  size_t first, size_t last, float* max_out, float* sum_out, F f) {
    if (s.softcap > 0.0f) {
        const F32 cap = splat(s.softcap), inverse = splat(factor / (s.softcap * kLog2E));
        for (size_t i = begin; i < end; i += kLanes)
            store(logits + i, tanh(load(logits + i) * inverse) * cap);
        factor = kLog2E;
    }
    // What is not seen may be anything; it must not be the maximum.
    const float seen = first < last ? logits[first] : 0.0f;
    for (size_t i = begin; i < first; ++i) logits[i] = seen;
    for (size_t i = last; i < end; ++i) logits[i] = seen;
    // max drops NaN; it comes back as a power of NaN, and as a NaN sum.
    F32 high = negative_infinity();
    for (size_t b = begin; b < end; b += kKvBlockTokens) {
        unrolled<kBlockVectors>(
            [&](auto j) EDGELLM_INLINE_LAMBDA { high = max(load(logits + b + j * kLanes), high); });
    }
    float top = reduce_max(high);
    if (top == -__builtin_inff()) top = 0.0f;
    F32 sum = splat(0.0f);
    for (size_t b = begin; b < end; b += kKvBlockTokens) {
        F32 powers[kBlockVectors];
        unrolled<kBlockVectors>([&](auto j) EDGELLM_INLINE_LAMBDA {
            powers[j] = exp2_bounded((load(logits + b + j * kLanes) - top) * factor);
        });
        const bool all_seen = first <= b && b + kKvBlockTokens <= last;
        if (!all_seen) {
            unrolled<kBlockVectors>([&](auto j) EDGELLM_INLINE_LAMBDA {
                const I32 key = lane_numbers() + static_cast<int32_t>(b + j * kLanes);
                const I32 mask = (key >= static_cast<int32_t>(first)) & (key < static_cast<int32_t>(last));
                powers[j] = (F32)((I32)powers[j] & mask);
            });
        }
        unrolled<kBlockVectors>([&](auto j) EDGELLM_INLINE_LAMBDA { sum = sum + powers[j]; });
        f(b, powers, all_seen);
    }
    *max_out = top * factor;
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

constexpr size_t kBlocksAhead = 2;

// A group of rows and one chunk of the keys that they see.
struct Chunk {
    const AttentionShape& s;
    const AttentionTask& task;
    RowGroup* g;
    float* scratch;
    ScratchLayout at;
    size_t base;            // of its positions
    Span spans[kMaxTiles];  // what each tile sees, and all of them
    Span all;
    bool one_tile, far;

    const uint8_t* keys(size_t b) const {
        return task.blocks[(base + b) / kKvBlockTokens] + key_offset(s, task.kv_head);
    }
    const uint8_t* values(size_t b) const {
        return task.blocks[(base + b) / kKvBlockTokens] + value_offset(s, task.kv_head);
    }
    float* logits(size_t row) const { return scratch + at.logits + row * kLogitStride; }
    float* weight_scales(size_t row) const { return scratch + at.weight_scales + row * kChunkBlocks; }

    // What is gone through kBlocksAhead after b: after the last keys come the first values. A head's keys or
    // values of a block are one page or more, at whose end the processor itself stops fetching ahead.
    Ahead ahead(size_t b, bool of_values) const {
        const size_t later = b + kBlocksAhead * kKvBlockTokens;
        if (later < all.end) return {of_values ? values(later) : keys(later), far};
        const size_t first = all.begin + (later - all.end);
        return {values(!of_values && first < all.end ? first : all.end - kKvBlockTokens), far};
    }
};

Chunk make_chunk(const AttentionShape& s, const AttentionTask& task, uint32_t chunk, RowGroup* g,
                 float* scratch) {
    Chunk c{s,
            task,
            g,
            scratch,
            scratch_layout(s),
            size_t{chunk} * kKvChunkTokens,
            {},
            {kKvChunkTokens, 0},
            g->n_tiles == 1,
            cpu_tuning().fetch_into_l2};
    for (size_t t = 0; t < g->n_tiles; ++t) {
        const Span span = block_span(g->tiles[t].first_key, g->tiles[t].last_key, chunk);
        c.spans[t] = span;
        if (span.begin >= span.end) continue;
        if (span.begin < c.all.begin) c.all.begin = span.begin;
        if (span.end > c.all.end) c.all.end = span.end;
    }
    return c;
}

// Calls f with one head's keys or values of a block: as stored where `expanded` is nullptr, else as expanded.
template <class F>
EDGELLM_INLINE void with_block(const Chunk& c, const uint8_t* data, Ahead ahead, size_t scales_offset,
                               const float* expanded, F f) {
    const auto* half = reinterpret_cast<const uint16_t*>(data);
    const auto* scales = reinterpret_cast<const uint16_t*>(data + scales_offset);
    switch (c.s.kv_type) {
        case KvType::kF32:
            f(FloatBlock<false>{reinterpret_cast<const float*>(data), nullptr});
            break;
        case KvType::kF16:
            if (expanded == nullptr)
                f(HalfBlock{half, ahead});
            else
                f(FloatBlock<false>{expanded, nullptr});
            break;
        case KvType::kI16:
            if (c.one_tile)
                f(Int16Block<true>{reinterpret_cast<const int16_t*>(data), ahead});
            else
                f(Int16Block<false>{reinterpret_cast<const int16_t*>(data), ahead});
            break;
        case KvType::kQ8_0:
            if (expanded == nullptr)
                f(Int8Block{reinterpret_cast<const int8_t*>(data), scales, ahead});
            else
                f(FloatBlock<true>{expanded, scales});
            break;
    }
}

// One tile reads the cache as it is; several share a copy as floats. Floats and integers need no copy.
float* copy_of_block(const Chunk& c) {
    const bool copied = !c.one_tile && (c.s.kv_type == KvType::kF16 || c.s.kv_type == KvType::kQ8_0);
    return copied ? c.scratch + c.at.expanded : nullptr;
}

// Logits of every row, less its factor.
void multiply_keys(const Chunk& c) {
    const AttentionShape& s = c.s;
    float* const expanded = copy_of_block(c);
    for (size_t b = c.all.begin; b < c.all.end; b += kKvBlockTokens) {
        const uint8_t* block = c.keys(b);
        float* const scales = c.scratch + c.at.scales + b;
        if (expanded != nullptr) expand(s.kv_type, block, s.key_dim * kKvBlockTokens, expanded);
        if (s.kv_type == KvType::kI16)
            read_scales(reinterpret_cast<const int16_t*>(block), scales, scales + kKvChunkTokens);
        with_block(c, block, c.ahead(b, false), key_scales_offset(s), expanded, [&](auto keys) {
            for (size_t t = 0; t < c.g->n_tiles; ++t) {
                if (b < c.spans[t].begin || b >= c.spans[t].end) continue;
                const Tile& tile = c.g->tiles[t];
                float* to = c.logits(tile.row) + b;
                if constexpr (keys.kIntegers)
                    dot_integer_rows(tile.rows, integer_queries(s, c.scratch, tile.row), keys, scales,
                                     key_pairs(s), to);
                else
                    dot_rows(tile.rows, c.scratch + c.at.q + tile.row * s.key_dim, keys, s.key_dim, to);
            }
        });
    }
}

// Probabilities of a row from its logits, in their place; of a kI16 cache then weights in integers.
void weigh_row(const Chunk& c, Span span, size_t r) {
    size_t first = c.g->keys[r].first > c.base ? c.g->keys[r].first - c.base : 0;
    size_t last = c.g->keys[r].last > c.base ? c.g->keys[r].last - c.base : 0;
    if (first > span.end) first = span.end;
    if (first < span.begin) first = span.begin;
    if (last > span.end) last = span.end;
    if (last < span.begin) last = span.begin;
    float* const p = c.logits(r);
    const auto probabilities = [&](auto f) {
        exponentiate(c.s, c.g->factor[r], p, span.begin, span.end, first, last, &c.g->max[r], &c.g->sum[r],
                     f);
    };
    if (c.s.kv_type != KvType::kI16) {
        probabilities([&](size_t b, F32(&powers)[kBlockVectors], bool) EDGELLM_INLINE_LAMBDA {
            unrolled<kBlockVectors>([&](auto j)
                                        EDGELLM_INLINE_LAMBDA { store(p + b + j * kLanes, powers[j]); });
        });
        return;
    }
    const float* const value_scales = c.scratch + c.at.scales + kKvChunkTokens;
    float* const sums = c.weight_scales(r);
    probabilities([&](size_t b, F32(&powers)[kBlockVectors], bool all_seen) EDGELLM_INLINE_LAMBDA {
        F32 sum = splat(0.0f);
        unrolled<kBlockVectors>([&](auto j) EDGELLM_INLINE_LAMBDA {
            F32 weight = powers[j] * load(value_scales + b + j * kLanes);
            // A value that is not seen may never have been written, and its scale be anything.
            if (!all_seen) weight = powers[j] == splat(0.0f) ? powers[j] : weight;
            store(p + b + j * kLanes, weight);
            sum = sum + weight;
        });
        sums[b / kKvBlockTokens] = reduce_add(sum);
    });
    auto* const ints = reinterpret_cast<int16_t*>(p);
    for (size_t b = span.begin; b < span.end; b += kKvBlockTokens) {
        float* scale = sums + b / kKvBlockTokens;
        *scale = integer_weights(p + b, *scale, ints + b);
    }
}

// Adds each row's weighted values to what is there.
void multiply_values(const Chunk& c) {
    const AttentionShape& s = c.s;
    const size_t stride = value_stride(s);
    float* const expanded = copy_of_block(c);
    const size_t end = c.g->tiles[c.g->n_tiles - 1].last_key - c.base;  // the last tile sees furthest
    for (size_t b = c.all.begin; b < c.all.end; b += kKvBlockTokens) {
        const uint8_t* block = c.values(b);
        // Slots past the last key may never have been written: 0 times what they hold need not be 0.
        const size_t written = end - b < kKvBlockTokens ? end - b : kKvBlockTokens;
        if (expanded != nullptr) expand(s.kv_type, block, written * stride, expanded);
        with_block(c, block, c.ahead(b, true), value_scales_offset(s), expanded, [&](auto rows) {
            for (size_t t = 0; t < c.g->n_tiles; ++t) {
                if (b < c.spans[t].begin || b >= c.spans[t].end) continue;
                const Tile& tile = c.g->tiles[t];
                const size_t first = tile.first_key > c.base + b ? tile.first_key - c.base - b : 0;
                const size_t unseen = tile.last_key - c.base - b;
                const size_t last = unseen < kKvBlockTokens ? unseen : kKvBlockTokens;
                const float* p = c.logits(tile.row);
                float* to = c.scratch + c.at.values + tile.row * stride;
                if constexpr (rows.kIntegers)
                    weigh_integer_rows(tile.rows, reinterpret_cast<const int16_t*>(p) + b,
                                       c.weight_scales(tile.row) + b / kKvBlockTokens, rows, stride,
                                       first / 2, (last + 1) / 2, to);
                else
                    weigh_rows(tile.rows, p + b, rows, stride, first, last, to);
            }
        });
    }
}

// Max, sum and weighted values of every row over one chunk.
void attend_rows(const AttentionShape& s, const AttentionTask& task, uint32_t chunk, RowGroup* g,
                 float* scratch) {
    const Chunk c = make_chunk(s, task, chunk, g, scratch);
    multiply_keys(c);
    const size_t stride = value_stride(s);
    for (size_t t = 0; t < g->n_tiles; ++t) {
        const Tile& tile = g->tiles[t];
        for (size_t r = tile.row; r < tile.row + tile.rows; ++r) {
            float* o = scratch + c.at.values + r * stride;
            for (size_t i = 0; i < stride; i += kLanes) store(o + i, splat(0.0f));
            g->max[r] = -__builtin_inff();
            g->sum[r] = 0.0f;
            if (c.spans[t].begin < c.spans[t].end) weigh_row(c, c.spans[t], r);
        }
    }
    multiply_values(c);
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
    const float a = exp2_bounded_1(*max_inout - top), b = exp2_bounded_1(max - top);
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
        const float logit = *sink * kLog2E;
        const float top = max > logit ? max : logit;
        factor = exp2_bounded_1(max - top);
        sum = sum * factor + exp2_bounded_1(logit - top);
    }
    factor /= sum;
    for (size_t i = 0; i < n; ++i) out[i] *= factor;
}

const float* head_sink(const AttentionShape& s, size_t head) {
    return s.sinks == nullptr ? nullptr : s.sinks + head;
}

// Asks for the first keys of a few rows, which nothing has yet, before the queries are made ready.
void fetch_first_keys(const AttentionShape& s, const AttentionTask& task, KeyRange seen) {
    const size_t first = seen.first / kKvBlockTokens;
    for (size_t i = first; i < first + kBlocksAhead && i * kKvBlockTokens < seen.last; ++i) {
        const uint8_t* keys = task.blocks[i] + key_offset(s, task.kv_head);
        for (size_t line = 0; line < key_bytes(s); line += 64) __builtin_prefetch(keys + line, 0, 2);
    }
}

void attend(const AttentionShape& s, const AttentionTask& task, float* scratch) {
    const size_t group = query_group(s);
    const size_t n_rows = task.n_queries * group;
    const ScratchLayout at = scratch_layout(s);
    if (n_rows <= kTileRows) fetch_first_keys(s, task, visible_keys(s, task.position, task.n_keys));
    for (size_t row = 0; row < n_rows; row += kGroupRows) {
        RowGroup g;
        plan_rows(s, task, row, n_rows - row < kGroupRows ? n_rows - row : kGroupRows, &g, scratch);
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
    KeyRange seen = visible_keys(s, task.position, task.n_keys);
    if (seen.first < chunk * kKvChunkTokens) seen.first = static_cast<uint32_t>(chunk * kKvChunkTokens);
    if (group <= kTileRows) fetch_first_keys(s, task, seen);
    for (size_t row = 0; row < group; row += kGroupRows) {
        RowGroup g;
        plan_rows(s, task, row, group - row < kGroupRows ? group - row : kGroupRows, &g, scratch);
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

constexpr AttentionKernels kKernels = {kMultipliesPairs, write, attend, attend_chunk, merge};

}  // namespace
}  // namespace edgellm
