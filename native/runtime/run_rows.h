// SPDX-License-Identifier: MIT
// Runs row programs: operations that touch one token's row only.
#pragma once

#include <cstddef>
#include <span>

#include "runtime/run_context.h"
#include "runtime/run_route.h"

namespace edgellm {

class RowRunner {
  public:
    RowRunner(RunContext* context, Router* router);

    // Cosines and sines of the batch's positions; thread t's share of rows.
    void compute_angles(size_t t);

    // Stage number s.
    void run(size_t s, const RowStage& stage, size_t t);
    // Rows [begin, end). quants: the stage's quant slots.
    void run(std::span<const RowOp> ops, std::span<const QuantSlot> quants, size_t begin, size_t end,
             const Thread& thread);

  private:
    RunContext& context_;
    Router& router_;
    Region angle_region_;
    float* angles_;
};

}  // namespace edgellm
