// SPDX-License-Identifier: MIT
// The largest logits of a split output head without reading all of it: the head is most of what a small model
// reads for a token.
//
// The upper bits of the head give approximate logits, and the norms of the lower bits bound their errors. The
// exact logits of the most promising panels give a lower bound of the n-th largest logit; only panels that
// can reach it are computed exactly. The n largest logits are the same bits as without this; each other one
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
    // From approximations of all logits to exact ones where they may be among the top n. A barrier lies
    // before it and one within.
    void find(const LinearStage& stage, const Thread& thread);
    // After a run: counts the bytes that were not read, and gives up on such sizes for a while if too many
    // were.
    void update_top_n_policy();

    uint64_t unread_bytes() const { return unread_bytes_; }

  private:
    // Turns thread's share of a row's approximations into upper bounds; returns a lower bound of the row's
    // n-th largest logit.
    float bound(const LinearTask& task, const QuantRows& quant, size_t row, size_t thread);
    // Computes panels of the thread's share that reach the threshold; returns how many.
    size_t compute_reaching(const LinearTask& task, const QuantRows& quant, size_t row, size_t thread);

    const RunContext& context_;
    const AdapterRunner& adapters_;
    const LinearStage* head_ = nullptr;  // nullptr: no head is split
    size_t n_ = 0;
    size_t most_;                     // of all rows together; smaller sizes than kMostLogits
    size_t runs_until_retry_ = 0;     // of larger ones
    std::vector<float> thresholds_;   // [row][thread]
    std::atomic<size_t> n_exact_{0};  // panels computed exactly, of all rows
    uint64_t unread_bytes_ = 0;
};

}  // namespace edgellm
