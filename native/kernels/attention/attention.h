// SPDX-License-Identifier: MIT
// Attention of new tokens over a sequence's paged key/value cache.
//
// The cache of one layer is cut into blocks of 32 tokens. A block holds the keys of every KV head, then the
// values of every KV head; layout.h says how, for each type of cache.
//
// Results are batch-invariant: keys are visited in chunks of 512, aligned to multiples of 512 from the start
// of the sequence. Each chunk gives (max, sum, weighted values) in one fixed order, and chunks are merged in
// ascending order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/arch.h"

namespace edgellm {

constexpr size_t kKvBlockTokens = 32;
constexpr size_t kKvChunkTokens = 512;

// Types of cache: X(enumerator without its k, name). layout.h has the sizes of each, kv_<name>.h reads and
// writes it, and edgellm/engine/kv_types.py describes it to users.
//   f32, f16   floats
//   q8_0       8-bit integers with a binary16 scale for every 32 values
//   i16        16-bit integers with a scale for every token and head, multiplied as integers
#define EDGELLM_KV_TYPES(X) X(F16, "f16") X(Q8_0, "q8_0") X(F32, "f32") X(I16, "i16")

#define EDGELLM_KV_ENUMERATOR(type, name) k##type,
enum class KvType : uint8_t { EDGELLM_KV_TYPES(EDGELLM_KV_ENUMERATOR) };
#undef EDGELLM_KV_ENUMERATOR

std::span<const KvType> kv_types();
const char* kv_type_name(KvType type);
// Returns false if no type has that name.
bool kv_type_from_name(std::string_view name, KvType* type);

struct AttentionShape {
    uint32_t n_heads, n_kv_heads, key_dim, value_dim;
    float scale;
    float softcap;       // 0: none
    uint32_t window;     // 0: all
    const float* sinks;  // (n_heads,) or nullptr
    KvType kv_type;
    // Added to logits in units of log2: bias[h * bias_stride + k - p] for head h, the key at k and the query
    // at p, up to the end of the last key's block. nullptr: none.
    const float* bias;
    size_t bias_stride;
};

// Bytes of one block of one layer, a multiple of 64.
size_t kv_block_bytes(const AttentionShape& s);

// One task: `n_queries` consecutive new tokens of one sequence, one KV head and all query heads that share
// it.
struct AttentionTask {
    uint8_t* const* blocks;  // the sequence's blocks of this layer, by position / 32
    uint32_t kv_head;
    uint32_t n_queries;
    uint32_t position;  // of the first query; query i sits at position + i
    uint32_t n_keys;    // 0: causal, query i sees keys [0, position + i]; else every query sees [0, n_keys)
    const float* q;     // query i, head h: q + i * q_stride + h * key_dim (h counts all heads)
    size_t q_stride;
    float* out;  // query i, head h: out + i * out_stride + h * value_dim
    size_t out_stride;
};

// Floats of a chunk's share of one query head's result, before merging: the maximum logit in units of log2,
// the sum of exp, then value_dim weighted values.
inline size_t partial_floats(const AttentionShape& s) {
    return 2 + s.value_dim;
}

struct AttentionKernels {
    // One or two instructions multiply pairs of 16-bit integers and add the products.
    bool multiplies_pairs;

    // Stores one token's keys (n_kv_heads * key_dim) and values (n_kv_heads * value_dim) at `slot` of a
    // block.
    void (*write)(const AttentionShape& s, uint8_t* block, uint32_t slot, const float* k, const float* v);

    // The whole task. scratch: at least attend_scratch_floats(s) floats, private to the thread.
    void (*attend)(const AttentionShape& s, const AttentionTask& task, float* scratch);

    // Part of a task with n_queries == 1, so that threads share a long context: keys [chunk * 512, chunk *
    // 512 + 512), for each query head of the group in turn, partial_floats(s) floats each.
    void (*attend_chunk)(const AttentionShape& s, const AttentionTask& task, uint32_t chunk, float* partials,
                         float* scratch);
    // Merges chunks [first, last); partials of chunk c at partials + (c - first) * chunk_stride. Same bits as
    // `attend`.
    void (*merge)(const AttentionShape& s, const AttentionTask& task, uint32_t first, uint32_t last,
                  const float* partials, size_t chunk_stride);
};

size_t attend_scratch_floats(const AttentionShape& s);
// Chunks that a query at `position` sees: [first, last).
void visible_chunks(const AttentionShape& s, uint32_t position, uint32_t n_keys, uint32_t* first,
                    uint32_t* last);

const AttentionKernels& attention_kernels(Isa isa);
// The faster cache of 16 bits: kI16 where the set multiplies pairs of integers, else kF16.
KvType faster_kv_type(Isa isa);

}  // namespace edgellm
