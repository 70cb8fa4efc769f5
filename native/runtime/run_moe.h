// SPDX-License-Identifier: MIT
// Runs mixtures of experts. The batch's (token, expert) pairs, called entries, are ordered by expert: each
// expert's matrices are read once and multiply all of its tokens together, in prefill as in decode.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/run_context.h"
#include "runtime/run_route.h"

namespace edgellm {

class MoeRunner {
  public:
    MoeRunner(RunContext* context, const Router& router);

    // Stage number s.
    void run(size_t s, const MoeStage& moe, size_t t);

  private:
    // Rows of entries: inputs, hidden rows of width n_ff, results; quantized ones where a matrix wants them.
    struct Rows {
        QuantRows x_quant, hidden_quant;
        float* x;
        float* hidden;
        float* y;
        size_t x_ld, hidden_ld, y_ld;
    };
    // Panels [first, last) of one expert's matrix.
    struct Panels {
        size_t expert, first, last;
    };

    Rows rows_of(const MoeStage& moe) const;
    void order_by_expert(const MoeStage& moe);
    void gather_inputs(const MoeStage& moe, const Rows& rows, size_t t);
    void quantize_hidden(const MoeStage& moe, const Rows& rows, size_t t);
    // hidden = activation(gate x) * up x, or activation(up x).
    void multiply_in(const MoeStage& moe, const Rows& rows, const Panels& panels, size_t t);
    void multiply_down(const MoeStage& moe, const Rows& rows, const Panels& panels, size_t t);
    void add_experts(const MoeStage& moe, const Rows& rows, size_t t);

    // Calls work(panels) for units that no other thread takes. Experts without tokens make none.
    template <class Work>
    void for_units(size_t s, size_t phase, const MoeStage& moe, MatrixId matrix, const Work& work);
    // Calls fn(first entry, number) for the entries of an expert, as many at a time as a tile holds.
    template <class Fn>
    void for_entries(size_t expert, const Fn& fn) const;
    void add_bias(VectorId bias, size_t first, size_t n, float* values) const;
    size_t n_entries(const MoeStage& moe) const { return context_.n_rows * moe.routing.n_used; }
    bool int8(MatrixId matrix) const;

    RunContext& context_;
    const Router& router_;
    Region rows_;
    ThreadScratch tiles_, gate_tiles_;
    // Of the stage that runs. entry_row_[entry]: its token; entry_of_[row * n_used + k]: the entry of a
    // token's k-th expert; expert_begin_[e]: the first entry of an expert.
    std::vector<uint32_t> entry_row_, entry_of_, expert_begin_;
};

}  // namespace edgellm
