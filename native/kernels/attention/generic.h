// SPDX-License-Identifier: MIT
// Attention over the lanes of a vec_*.h, included before this file.
//
// A row is one (query, head) pair. Rows are taken kTileRows at a time through a register tile, up to
// kGroupRows rows per pass over the keys. A chunk of 512 keys is done in two passes: logits of the whole
// chunk, its maximum, exp and sum; then the weighted values. Each row's float operations are a function of
// that row, the keys and the chunk alone.
#pragma once

#include "kernels/attention/row_group.h"

namespace edgellm {
namespace {

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
template <KvType type>
struct Chunk {
    const AttentionShape& s;
    const AttentionTask& task;
    RowGroup* g;
    const Scratch& scratch;
    size_t base;            // position of the chunk's first key
    Span spans[kMaxTiles];  // keys of each tile, in whole blocks
    Span all;               // keys of any tile
    bool one_tile, into_l2;

    const uint8_t* keys(size_t b) const {
        return task.blocks[(base + b) / kKvBlockTokens] + key_offset<type>(s, task.kv_head);
    }
    const uint8_t* values(size_t b) const {
        return task.blocks[(base + b) / kKvBlockTokens] + value_offset<type>(s, task.kv_head);
    }

    // The block that is read kBlocksAhead after b: after the last keys come the first values. A head's keys
    // or values of a block are one page or more, at whose end the processor itself stops fetching ahead.
    Ahead ahead(size_t b, bool of_values) const {
        const size_t later = b + kBlocksAhead * kKvBlockTokens;
        if (later < all.end) return {of_values ? values(later) : keys(later), into_l2};
        const size_t first = all.begin + (later - all.end);
        return {values(!of_values && first < all.end ? first : all.end - kKvBlockTokens), into_l2};
    }

    // f(tile) for each tile that sees keys of block b.
    template <class F>
    EDGELLM_INLINE void each_tile(size_t b, F f) const {
        for (size_t t = 0; t < g->n_tiles; ++t) {
            if (b >= spans[t].begin && b < spans[t].end) f(g->tiles[t]);
        }
    }
};

template <KvType type>
Chunk<type> make_chunk(const AttentionShape& s, const AttentionTask& task, uint32_t chunk, RowGroup* g,
                       const Scratch& scratch) {
    Chunk<type> c{s,
                  task,
                  g,
                  scratch,
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

// Logits of every row, without its factor.
template <KvType type>
void multiply_keys(const Chunk<type>& c) {
    const size_t n = c.s.key_dim * kKvBlockTokens;
    for (size_t b = c.all.begin; b < c.all.end; b += kKvBlockTokens) {
        const uint8_t* block = c.keys(b);
        float* const scales = c.scratch.key_scales() + b;
        if constexpr (KvCache<type>::kIntegers)
            KvCache<type>::read_scales(block, scales, c.scratch.value_scales() + b);
        const StoredBlock stored{block, n, n, c.one_tile, c.scratch.expanded(), c.ahead(b, false)};
        KvCache<type>::read(stored, [&](auto keys) {
            c.each_tile(b, [&](const Tile& tile) EDGELLM_INLINE_LAMBDA {
                float* to = c.scratch.logits(tile.row) + b;
                if constexpr (keys.kIntegers)
                    dot_integer_rows(tile.rows, c.scratch.integer_queries(tile.row), keys, scales,
                                     key_pairs(c.s), to);
                else
                    dot_rows(tile.rows, c.scratch.queries(tile.row), keys, c.s.key_dim, to);
            });
        });
    }
}

// Turns powers of a row's logits into 16-bit weights of integer values, which take the logits' place.
template <KvType type, class Powers>
void make_integer_weights(const Chunk<type>& c, Span span, size_t r, Powers powers_of) {
    float* const p = c.scratch.logits(r);
    const float* const value_scales = c.scratch.value_scales();
    float* const sums = c.scratch.weight_scales(r);
    powers_of([&](size_t b, F32(&powers)[kBlockVectors], bool all_seen) EDGELLM_INLINE_LAMBDA {
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

// Weights of a row's values, in place of its logits, and their sum.
template <KvType type>
void make_weights(const Chunk<type>& c, Span span, size_t r) {
    const auto within = [&](uint32_t key) {
        const size_t k = key > c.base ? key - c.base : 0;
        return k > span.end ? span.end : k < span.begin ? span.begin : k;
    };
    const KeyRange seen = c.g->keys[r];
    float* const p = c.scratch.logits(r);
    const float* bias = c.g->bias[r] == nullptr ? nullptr : c.g->bias[r] + c.base;
    const RowLogits row{p, span.begin, span.end, within(seen.first), within(seen.last), bias};
    const auto powers_of = [&](auto f) { c.g->sums[r] = exponentiate(c.s.softcap, c.g->factor[r], row, f); };
    if constexpr (KvCache<type>::kIntegers) {
        make_integer_weights(c, span, r, powers_of);
    } else {
        powers_of([&](size_t b, F32(&powers)[kBlockVectors], bool) EDGELLM_INLINE_LAMBDA {
            unrolled<kBlockVectors>([&](auto j)
                                        EDGELLM_INLINE_LAMBDA { store(p + b + j * kLanes, powers[j]); });
        });
    }
}

// Adds each row's weighted values to what is there.
template <KvType type>
void accumulate_values(const Chunk<type>& c) {
    const size_t stride = value_stride(c.s);
    const size_t end = c.g->tiles[c.g->n_tiles - 1].last_key - c.base;  // the last tile sees furthest
    for (size_t b = c.all.begin; b < c.all.end; b += kKvBlockTokens) {
        // Slots past the last key may never have been written: 0 times what they hold need not be 0.
        const size_t written = end - b < kKvBlockTokens ? end - b : kKvBlockTokens;
        const StoredBlock stored{c.values(b), kKvBlockTokens * stride, written * stride,
                                 c.one_tile,  c.scratch.expanded(),    c.ahead(b, true)};
        KvCache<type>::read(stored, [&](auto values) {
            c.each_tile(b, [&](const Tile& tile) EDGELLM_INLINE_LAMBDA {
                const size_t first = tile.first_key > c.base + b ? tile.first_key - c.base - b : 0;
                const size_t unseen = tile.last_key - c.base - b;
                const size_t last = unseen < kKvBlockTokens ? unseen : kKvBlockTokens;
                const float* p = c.scratch.logits(tile.row);
                float* to = c.scratch.values(tile.row);
                if constexpr (values.kIntegers) {
                    const IntegerSums sums{reinterpret_cast<const int16_t*>(p) + b,
                                           c.scratch.weight_scales(tile.row) + b / kKvBlockTokens,
                                           first / 2,
                                           (last + 1) / 2,
                                           to,
                                           stride};
                    accumulate_integer_rows(tile.rows, sums, values);
                } else {
                    accumulate_rows(tile.rows, FloatSums{p + b, kLogitStride, first, last, to, stride},
                                    values);
                }
            });
        });
    }
}

// Max, sum and weighted values of every row over one chunk.
template <KvType type>
void attend_rows(const AttentionShape& s, const AttentionTask& task, uint32_t chunk, RowGroup* g,
                 const Scratch& scratch) {
    const Chunk<type> c = make_chunk<type>(s, task, chunk, g, scratch);
    multiply_keys(c);
    const size_t stride = value_stride(s);
    for (size_t t = 0; t < g->n_tiles; ++t) {
        const Tile& tile = g->tiles[t];
        for (size_t r = tile.row; r < tile.row + tile.rows; ++r) {
            float* o = scratch.values(r);
            for (size_t i = 0; i < stride; i += kLanes) store(o + i, splat(0.0f));
            g->sums[r] = {-__builtin_inff(), 0.0f};
            if (c.spans[t].begin < c.spans[t].end) make_weights(c, c.spans[t], r);
        }
    }
    accumulate_values(c);
}

const float* head_sink(const AttentionShape& s, size_t head) {
    return s.sinks == nullptr ? nullptr : s.sinks + head;
}

// Fetches the first keys of a few rows while their queries are packed.
template <KvType type>
void fetch_first_keys(const AttentionShape& s, const AttentionTask& task, KeyRange seen) {
    const size_t first = seen.first / kKvBlockTokens;
    for (size_t i = first; i < first + kBlocksAhead && i * kKvBlockTokens < seen.last; ++i) {
        const uint8_t* keys = task.blocks[i] + key_offset<type>(s, task.kv_head);
        for (size_t line = 0; line < KvLayout<type>::key_bytes(s); line += 64)
            __builtin_prefetch(keys + line, 0, 2);
    }
}

template <KvType type>
void attend_cache(const AttentionShape& s, const AttentionTask& task, const Scratch& scratch) {
    const size_t group = query_group(s);
    const size_t n_rows = task.n_queries * group;
    if (n_rows <= kTileRows) fetch_first_keys<type>(s, task, visible_keys(s, task.position, task.n_keys));
    for (size_t row = 0; row < n_rows; row += kGroupRows) {
        RowGroup g;
        plan_rows<type>(s, task, row, n_rows - row < kGroupRows ? n_rows - row : kGroupRows, &g, scratch);
        RowSum sums[kGroupRows];
        uint32_t first = UINT32_MAX, last = 0;
        for (size_t r = 0; r < g.n_rows; ++r) {
            sums[r] = {0.0f, 0.0f};
            if (g.keys[r].first < first) first = g.keys[r].first;
            if (g.keys[r].last > last) last = g.keys[r].last;
        }
        const auto out = [&](size_t r) {
            return task.out + (row + r) / group * task.out_stride +
                   (task.kv_head * group + (row + r) % group) * s.value_dim;
        };
        for (uint32_t chunk = first / kKvChunkTokens; chunk * kKvChunkTokens < last; ++chunk) {
            attend_rows<type>(s, task, chunk, &g, scratch);
            for (size_t r = 0; r < g.n_rows; ++r)
                merge_row(out(r), s.value_dim, &sums[r], g.sums[r], scratch.values(r));
        }
        for (size_t r = 0; r < g.n_rows; ++r) {
            const size_t head = task.kv_head * group + (row + r) % group;
            finish_row(out(r), s.value_dim, sums[r], head_sink(s, head));
        }
    }
}

template <KvType type>
void attend_cache_chunk(const AttentionShape& s, const AttentionTask& task, uint32_t chunk, float* partials,
                        const Scratch& scratch) {
    const size_t group = query_group(s);
    KeyRange seen = visible_keys(s, task.position, task.n_keys);
    if (seen.first < chunk * kKvChunkTokens) seen.first = static_cast<uint32_t>(chunk * kKvChunkTokens);
    if (group <= kTileRows) fetch_first_keys<type>(s, task, seen);
    for (size_t row = 0; row < group; row += kGroupRows) {
        RowGroup g;
        plan_rows<type>(s, task, row, group - row < kGroupRows ? group - row : kGroupRows, &g, scratch);
        attend_rows<type>(s, task, chunk, &g, scratch);
        for (size_t r = 0; r < g.n_rows; ++r) {
            float* partial = partials + (row + r) * partial_size(s);
            partial[0] = g.sums[r].max;
            partial[1] = g.sums[r].sum;
            __builtin_memcpy(partial + 2, scratch.values(r), s.value_dim * sizeof(float));
        }
    }
}

// ---- the contract's functions (attention.h) ----

void write(const AttentionShape& s, uint8_t* block, uint32_t slot, const float* k, const float* v) {
    with_kv_type(s.kv_type, [&]<KvType type>() {
        for (size_t h = 0; h < s.n_kv_heads; ++h)
            KvCache<type>::write(s, k + h * s.key_dim, v + h * s.value_dim, slot,
                                 block + key_offset<type>(s, h), block + value_offset<type>(s, h));
    });
}

void attend(const AttentionShape& s, const AttentionTask& task, float* scratch) {
    with_kv_type(s.kv_type, [&]<KvType type>() { attend_cache<type>(s, task, Scratch(s, scratch)); });
}

void attend_chunk(const AttentionShape& s, const AttentionTask& task, uint32_t chunk, float* partials,
                  float* scratch) {
    with_kv_type(s.kv_type, [&]<KvType type>() {
        attend_cache_chunk<type>(s, task, chunk, partials, Scratch(s, scratch));
    });
}

void merge(const AttentionShape& s, const AttentionTask& task, uint32_t first, uint32_t last,
           const float* partials, size_t chunk_stride) {
    const size_t group = query_group(s);
    for (size_t r = 0; r < group; ++r) {
        const size_t head = task.kv_head * group + r;
        float* out = task.out + head * s.value_dim;
        RowSum sum{0.0f, 0.0f};
        for (uint32_t chunk = first; chunk < last; ++chunk) {
            const float* partial = partials + (chunk - first) * chunk_stride + r * partial_size(s);
            merge_row(out, s.value_dim, &sum, {partial[0], partial[1]}, partial + 2);
        }
        finish_row(out, s.value_dim, sum, head_sink(s, head));
    }
}

constexpr AttentionKernels kKernels = {kMultipliesPairs, write, attend, attend_chunk, merge};

}  // namespace
}  // namespace edgellm
