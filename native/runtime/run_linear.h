// SPDX-License-Identifier: MIT
// Runs linear stages: a prologue of row operations, products with the matrices' panels, which threads share,
// and an epilogue on each output tile while it is in cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime/run_adapters.h"
#include "runtime/run_context.h"
#include "runtime/run_rows.h"
#include "runtime/run_top_logits.h"

namespace edgellm {

// Panels of a matrix with few rows: [0, shared) split evenly among threads, then n_pieces pieces of `piece`
// panels that threads take as they come free.
struct PanelSplit {
    size_t shared, piece, n_pieces;
};
// uneven: CPUs differ in speed, so that all panels are taken in pieces.
PanelSplit split_panels(size_t n_panels, size_t panel_bytes, size_t n_threads, bool uneven);

class LinearRunner {
  public:
    LinearRunner(RunContext* context, RowRunner* rows, AdapterRunner* adapters, TopLogits* top_logits);

    // Stage number s.
    void run(size_t s, const LinearStage& stage, size_t t);
    // The prologue alone, into shared memory.
    void run_prologue(size_t s, const LinearStage& stage, size_t t);

    // Rows that matrices have multiplied, each counted once for each matrix.
    uint64_t multiplied_rows() const { return multiplied_rows_; }

    // Floats of the largest tile.
    static constexpr size_t kTileFloats = 96 * 192;

  private:
    void share_panels(size_t s, const LinearStage& stage, const Thread& thread);
    void stream_panels(size_t s, const LinearStage& stage, const Thread& thread);
    size_t n_units(const LinearTask& task) const;
    void multiply_panels(const LinearStage& stage, const LinearTask& task, size_t first, size_t last,
                         const Thread& thread);
    size_t tile_panels(const LinearTask& task, size_t tile_rows) const;
    void multiply_direct(const LinearStage& stage, const LinearTask& task, const QuantRows& quant,
                         const OutputTile& tile, const Thread& thread);
    void multiply_tile(const LinearTask& task, const QuantRows& quant, const OutputTile& tile,
                       const Thread& thread);
    // Bias, gate and epilogue of row `row` of the batch; `values` and `up` are its row of the tile.
    void finish_row(const LinearTask& task, const OutputTile& tile, size_t row, float* values, float* up,
                    const Thread& thread);
    void add_bias(VectorId bias, MatrixId matrix, const OutputTile& tile, const float* values, float* out);
    void apply_epilogue(const LinearTask& task, const OutputTile& tile, size_t row, float* values, float* out,
                        const Thread& thread);
    // Columns of a tile that the matrix has.
    size_t n_columns(MatrixId matrix, const OutputTile& tile) const;

    RunContext& context_;
    RowRunner& rows_;
    AdapterRunner& adapters_;
    TopLogits& top_logits_;
    ThreadScratch tiles_, up_tiles_, private_rows_;
    uint64_t multiplied_rows_ = 0;
};

}  // namespace edgellm
