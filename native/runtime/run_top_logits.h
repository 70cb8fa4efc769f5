// SPDX-License-Identifier: MIT
// Top logits without reading the whole output head, which is most of the weights that a small model reads for
// a token.
//
// The upper bits of a split head give approximate logits. The norms of the lower bits bound their errors. The
// exact logits of the most promising panels give a lower bound of the n-th largest logit; only panels that
// can reach it are computed exactly. The n largest logits have the bits of a full computation; each other one
// is its upper bound, which is smaller.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/run_adapters.h"
#include "runtime/run_context.h"

namespace edgellm {

class TopLogits {
  public:
    TopLogits(const RunContext& context, const AdapterRunner& adapters);

    // Before a run: only the n largest logits of each row are needed; 0: all.
    void start(size_t n);
    // True for the output head when only the top n logits are needed; they are first bounded by cheap
    // approximations.
    bool applies(const LinearStage& stage) const {
        return &stage == head_ && n_ > 0 && context_.n_rows * n_ <= most_ &&
               !adapters_.updates(stage.tasks[0].matrix);
    }
    // Turns approximate logits into exact ones where they may be among the top n. All threads call it after a
    // barrier; it contains another.
    void find(const LinearStage& stage, const Thread& thread);
    // After a run: counts the bytes that were skipped. If too many panels were computed exactly, batches of
    // this size are computed in full for a while.
    void update_top_n_policy();

    uint64_t unread_bytes() const { return unread_bytes_; }

  private:
    // Turns a thread's share of a row's approximations into upper bounds; returns a lower bound of the row's
    // n-th largest logit.
    float bound(const LinearTask& task, const QuantRows& quant, size_t row, size_t thread);
    // Computes the panels of a thread's share that reach the threshold; returns their number.
    size_t compute_reaching(const LinearTask& task, const QuantRows& quant, size_t row, size_t thread);

    const RunContext& context_;
    const AdapterRunner& adapters_;
    const LinearStage* head_ = nullptr;  // nullptr: no head is split
    size_t n_ = 0;
    size_t most_;                     // most logits of a run, all rows together, that are bounded
    size_t runs_until_retry_ = 0;     // until most_ is the largest again
    std::vector<float> thresholds_;   // [row][thread]
    std::atomic<size_t> n_exact_{0};  // panels computed exactly, of all rows
    uint64_t unread_bytes_ = 0;
};

}  // namespace edgellm
