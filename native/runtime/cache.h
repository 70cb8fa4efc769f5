// SPDX-License-Identifier: MIT
// Sequences: their paged keys and values, and their recurrent states of fixed size.
//
// Caches with the same window form a window group. A group's memory is a pool of cache blocks of 32 tokens,
// all its layers together; a sequence holds a list of block numbers for each group. Full blocks are shared
// between sequences by reference count. Groups with a window free blocks that have left it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/memory.h"
#include "runtime/plan.h"

namespace edgellm {

// Tokens that a window group keeps beyond its window: rejected drafts and an edited last answer are truncated
// without computing the prompt again.
constexpr size_t kWindowSlack = 256;

struct Sequence {
    bool open = false;
    size_t n_tokens = 0;
    std::vector<std::vector<int>> ids;          // per group: block number by position / 32; -1: freed
    std::vector<std::vector<uint8_t*>> blocks;  // per cache: address of its part of each block
    std::vector<size_t> first_kept;             // per group: positions before it are gone
    std::vector<float> state;
    std::vector<float> scales;  // of each adapter; empty: it uses none
};

class SequenceStore {
  public:
    // cache_tokens: capacity of each pool; context: most tokens of one sequence. Throws std::bad_alloc.
    SequenceStore(const ExecutionPlan& plan, size_t cache_tokens, size_t context);

    // A new sequence's number. scales: of each adapter, or none.
    int open(std::vector<float> scales = {});
    // False if there is no such sequence.
    bool close(int id);
    bool valid(int id) const {
        return id >= 0 && static_cast<size_t>(id) < sequences_.size() &&
               sequences_[static_cast<size_t>(id)].open;
    }
    Sequence& at(int id) { return sequences_[static_cast<size_t>(id)]; }

    // A new sequence that starts with the first n_tokens of `id`; -1 if that past is no longer held (windows,
    // states) or the pool has no block for the copy of a partly filled one.
    int fork(int id, size_t n_tokens);
    // Drops all but the first n_tokens; false if that past is no longer held.
    bool truncate(int id, size_t n_tokens);

    // Makes room for n_new tokens after the sequence's end; false (nothing changed) if the pool or the
    // context is too small.
    bool reserve(int id, size_t n_new);
    // Frees blocks that reserve took, if no tokens were written.
    void unreserve(int id);
    // Counts n_new tokens as written and frees blocks that no later token can see.
    void advance(int id, size_t n_new);

    size_t context() const { return context_; }
    // Tokens for which every group still has free blocks.
    size_t free_tokens() const;
    static size_t bytes_per_token(const ExecutionPlan& plan);

    // One sequence's whole past as bytes, and back. restore returns -1 if there is no room or the bytes do
    // not fit this model.
    std::vector<uint8_t> save(int id) const;
    int restore(const uint8_t* bytes, size_t n_bytes, std::vector<float> scales = {});

    // True if sequences consist of cache blocks alone: no windows, no states.
    bool only_blocks() const;
    // Keys and values of whole blocks of one sequence. Empty if it does not hold them, or has windows or
    // states.
    std::vector<uint8_t> save_blocks(int id, size_t first, size_t n_blocks) const;
    // Appends such bytes to a sequence of whole blocks; false (nothing changed) if they do not fit.
    bool append_blocks(int id, const uint8_t* bytes, size_t n_bytes);

  private:
    struct WindowGroup {
        size_t window = 0;
        size_t block_bytes = 0;
        std::vector<int> caches;
        Region region;
        std::vector<int> free_ids;  // taken from the back: freshly freed, warm blocks first
        std::vector<int> refs;
    };

    bool past_held(const Sequence& s, size_t n_tokens) const;
    void release(WindowGroup* group, int id);
    int take(WindowGroup* group);
    void set_block(Sequence* s, size_t group, size_t index, int id);
    void drop_after(Sequence* s, size_t n_blocks);

    const ExecutionPlan& plan_;
    size_t context_;
    std::vector<WindowGroup> groups_;
    std::vector<size_t> cache_offset_;  // of a cache's part within its group's block
    std::vector<Sequence> sequences_;
};

}  // namespace edgellm
