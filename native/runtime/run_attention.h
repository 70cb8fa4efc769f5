// SPDX-License-Identifier: MIT
// Runs attention stages: tasks of some queries and one KV head each, or, of single tokens over long pasts,
// chunks of keys that are merged afterwards.
#pragma once

#include <cstddef>
#include <vector>

#include "runtime/run_context.h"

namespace edgellm {

class AttentionRunner {
  public:
    explicit AttentionRunner(RunContext* context);

    // Stage number s.
    void run(size_t s, const AttentionStage& stage, size_t t);

  private:
    void run_tasks(size_t s, const AttentionStage& stage, const AttentionShape& shape, size_t t);
    void run_chunks(size_t s, const AttentionStage& stage, const AttentionShape& shape, size_t t);
    // n queries of a segment from `query` on, with one KV head.
    AttentionTask make_task(const AttentionStage& stage, const Segment& segment, size_t kv_head, size_t query,
                            size_t n) const;
    // The i-th task of a step of single tokens.
    // Queries of an encoder's local layer: each sees the keys at a distance below the window.
    void attend_near(const AttentionStage& stage, AttentionShape shape, const Segment& segment,
                     size_t kv_head, size_t query, size_t n, size_t t);
    AttentionTask token_task(const AttentionStage& stage, size_t i) const;
    float* partials(size_t task, size_t chunk, size_t head_floats) {
        return partials_.data() + (task * max_chunks_ + chunk) * head_floats;
    }

    RunContext& context_;
    size_t max_chunks_;  // of one sequence's keys
    ThreadScratch scratch_;
    std::vector<float> partials_;  // [task][chunk]
};

}  // namespace edgellm
