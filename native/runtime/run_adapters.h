// SPDX-License-Identifier: MIT
// Runs adapters within linear stages; runtime/adapters.h has the formula.
#pragma once

#include <cstddef>
#include <vector>

#include "runtime/adapters.h"
#include "runtime/run_context.h"

namespace edgellm {

// Results of a matrix's panels [first, last) for n_rows rows from `row` on: computed and finished together.
struct OutputTile {
    size_t first, last;
    size_t row, n_rows;

    size_t column() const { return first * kPanelRows; }
    size_t width() const { return (last - first) * kPanelRows; }
};

class AdapterRunner {
  public:
    // tile_floats: the most floats of a tile.
    AdapterRunner(RunContext* context, const Adapters& adapters, size_t tile_floats);

    // Before a run: reads each row's scales of the adapters from the batch's sequences.
    void read_scales();
    // After the selection of rows: moves their scales as well.
    void select_scales();

    // True if the stage has projections for the batch.
    bool projects(size_t stage) const { return active_ && !adapters_.projections(stage).empty(); }
    // Computes lora_a_out, all threads together; a barrier must follow.
    void project_a(size_t stage, const Thread& thread);

    bool updates(MatrixId matrix) const { return active_ && !adapters_.updates(matrix).empty(); }
    // Adds the updates to a tile of the matrix's results, whose rows have the stride ld.
    void add_updates(MatrixId matrix, const OutputTile& tile, float* values, size_t ld, const Thread& thread);

  private:
    void project_panel(const ProjectionA& projection, size_t panel, size_t row, const Thread& thread);
    float* scales(size_t adapter) { return scales_.data() + adapter * context_.plan.options.batch; }

    RunContext& context_;
    const Adapters& adapters_;
    bool active_ = false;                     // a sequence of the batch has adapters
    std::vector<float> lora_a_out_, scales_;  // [row][lora_a_floats], [adapter][row]
    ThreadScratch scratch_;                   // a tile each
};

}  // namespace edgellm
