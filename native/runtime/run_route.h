// SPDX-License-Identifier: MIT
// Routers of mixtures of experts: from a row's logits to its chosen experts and their weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/run_context.h"

namespace edgellm {

class Router {
  public:
    explicit Router(const RunContext& context);

    // Chooses the experts of one row from its logits (n_experts,).
    void route(const Routing& routing, const float* logits, size_t row, size_t thread);

    // After the selection of rows: moves choices that later stages read.
    void select_rows();

    // Of a slot, [row][n_used].
    const int32_t* experts(int slot) const { return experts_[static_cast<size_t>(slot)].data(); }
    const float* weights(int slot) const { return weights_[static_cast<size_t>(slot)].data(); }

  private:
    const RunContext& context_;
    ThreadScratch scratch_;
    std::vector<std::vector<int32_t>> experts_;
    std::vector<std::vector<float>> weights_;
};

}  // namespace edgellm
