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
    RowRunner(const RunContext& context, Router* router);

    // Cosines and sines of the batch's positions; thread t's share of rows.
    void compute_angles(size_t t);

    void run(const RowStage& stage, size_t t);
    // Rows [begin, end). quants: the stage's quant slots.
    void run(std::span<const RowOp> ops, std::span<const QuantSlot> quants, size_t begin, size_t end,
             const Thread& thread);

  private:
    void run_op(const RowOp& op, std::span<const QuantSlot> quants, size_t row, const Thread& thread);
    // 1 after the first separator of the row's text, else 0.
    size_t segment_of(const RowOp& op, size_t row) const;
    void embed(const RowOp& op, size_t row, float* out) const;
    void rope(const RowOp& op, size_t row, const float* a, float* out) const;
    void mul(const RowOp& op, const float* a, const float* b, float* out) const;
    void kv_write(const RowOp& op, size_t row, const float* k, const float* v) const;
    const float* angles(const AngleSet& set, size_t row) const {
        return angles_ + row * context_.plan.angle_floats_per_row + set.offset;
    }

    const RunContext& context_;
    Router& router_;
    Region angle_region_;
    float* angles_;
};

}  // namespace edgellm
