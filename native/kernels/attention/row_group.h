// SPDX-License-Identifier: MIT
// The rows of one pass over the keys: their tiles, packed queries and scratch. Included after a vec_*.h.
#pragma once

#include "kernels/attention/kv_float.h"
#include "kernels/attention/kv_i16.h"
#include "kernels/attention/kv_q8_0.h"
#include "kernels/attention/softmax.h"

namespace edgellm {
namespace {

// A thread's scratch by its parts.
struct Scratch {
    Scratch(const AttentionShape& s, float* floats)
        : base(floats),
          at(scratch_layout(s)),
          q_stride(s.key_dim),
          pair_stride(2 * key_pairs(s)),
          values_stride(value_stride(s)) {}

    float* base;
    ScratchLayout at;
    size_t q_stride, pair_stride, values_stride;

    // Queries of the tile that begins with `row`.
    float* queries(size_t row) const { return base + at.q + row * q_stride; }
    int16_t* integer_queries(size_t row) const {
        return reinterpret_cast<int16_t*>(base + at.q) + row * pair_stride;
    }
    int16_t* one_query() const { return reinterpret_cast<int16_t*>(base + at.expanded); }
    float* expanded() const { return base + at.expanded; }
    float* logits(size_t row) const { return base + at.logits + row * kLogitStride; }
    float* values(size_t row) const { return base + at.values + row * values_stride; }
    float* weight_scales(size_t row) const { return base + at.weight_scales + row * kChunkBlocks; }
    float* key_scales() const { return base + at.scales; }
    float* value_scales() const { return base + at.scales + kKvChunkTokens; }
};

// Rows of a group that go through the registers together, and the keys that they see.
struct Tile {
    size_t row, rows;  // rows [row, row + rows) of the group
    uint32_t first_key, last_key;
};

struct RowGroup {
    size_t n_rows, n_tiles;
    Tile tiles[kMaxTiles];
    KeyRange keys[kGroupRows];
    float factor[kGroupRows];       // of products of queries and keys: logits in units of log2
    const float* bias[kGroupRows];  // by the key's position; nullptr: none
    RowSum sums[kGroupRows];        // of the chunk at hand
};

size_t query_group(const AttentionShape& s) {
    return s.n_heads / s.n_kv_heads;
}

// Rows [first, first + n_rows) of the task, query by query: cuts them into tiles and packs the queries.
template <KvType type>
void plan_rows(const AttentionShape& s, const AttentionTask& task, size_t first, size_t n_rows, RowGroup* g,
               const Scratch& scratch) {
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
            if constexpr (KvCache<type>::kIntegers) {
                const float scale = pack_integer_query(s, x, tile.rows, scratch.one_query(),
                                                       scratch.integer_queries(row) + 2 * r);
                g->factor[row + r] = scale * s.scale * kLog2E;
            } else {
                pack_query(x, s.key_dim, tile.rows, scratch.queries(row) + r);
                g->factor[row + r] = s.scale * kLog2E;
            }
            const size_t position = task.position + query;
            g->bias[row + r] = s.bias == nullptr ? nullptr : s.bias + head * s.bias_stride - position;
            const KeyRange keys = visible_keys(s, static_cast<uint32_t>(position), task.n_keys);
            g->keys[row + r] = keys;
            if (keys.first < tile.first_key) tile.first_key = keys.first;
            if (keys.last > tile.last_key) tile.last_key = keys.last;
        }
        row += tile.rows;
    }
}

}  // namespace
}  // namespace edgellm
