// SPDX-License-Identifier: MIT
#include "runtime/run_linear.h"

#include <algorithm>

namespace edgellm {
namespace {

// 4/5 of the panels are split statically; threads take the rest in pieces of at least kPieceBytes.
constexpr size_t kSharedFraction = 5;
constexpr size_t kPiecesPerThread = 4;
// Of all panels: a core of a quarter of the speed ends less than a tenth of the time late.
constexpr size_t kPiecesPerUnevenThread = 16;
constexpr size_t kPieceBytes = 24 << 10;
constexpr size_t kTileRows = QuantRows::kGroup;
// Most panels of a unit of work: few enough that threads end together.
constexpr size_t kUnitPanels = 12;

}  // namespace

PanelSplit split_panels(size_t n_panels, size_t panel_bytes, size_t n_threads, bool uneven) {
    if (n_threads == 1) return {n_panels, 1, 0};
    const size_t own = uneven ? 0 : n_panels * (kSharedFraction - 1) / kSharedFraction / n_threads;
    const size_t left = n_panels - own * n_threads;
    const size_t pieces_per_thread = uneven ? kPiecesPerUnevenThread : kPiecesPerThread;
    const size_t piece =
        std::max({size_t{1}, kPieceBytes / panel_bytes, left / (pieces_per_thread * n_threads)});
    return {own * n_threads, piece, (left + piece - 1) / piece};
}

LinearRunner::LinearRunner(RunContext* context, RowRunner* rows, AdapterRunner* adapters,
                           TopLogits* top_logits)
    : context_(*context),
      rows_(*rows),
      adapters_(*adapters),
      top_logits_(*top_logits),
      tiles_(context->max_threads(), kTileFloats * sizeof(float)),
      up_tiles_(context->max_threads(), kTileFloats * sizeof(float)),
      private_rows_(context->max_threads(), context->plan.private_bytes) {}

void LinearRunner::run_prologue(size_t s, const LinearStage& stage, size_t t) {
    context_.for_rows(s, t, [&](size_t begin, size_t end) {
        rows_.run(stage.prologue, stage.quants, begin, end, Thread{t});
    });
}

void LinearRunner::run(size_t s, const LinearStage& stage, size_t t) {
    Thread thread{t};
    if (t == 0) {
        for (const LinearTask& task : stage.tasks)
            multiplied_rows_ += context_.n_rows * (task.up < 0 ? 1 : 2);
    }
    if (!stage.prologue.empty()) {
        if (context_.n_rows < context_.n_threads()) {
            // Every thread computes the few rows for itself, which is cheaper than a barrier.
            thread.private_rows = private_rows_.bytes(t);
            rows_.run(stage.prologue, stage.quants, 0, context_.n_rows, thread);
        } else {
            run_prologue(s, stage, t);
            context_.barrier();
        }
    }
    if (adapters_.projects(s)) {
        adapters_.project_a(s, thread);
        context_.barrier();
    }
    if (context_.n_rows < kStreamRows) {
        stream_panels(s, stage, thread);
    } else {
        share_panels(s, stage, thread);
    }
    if (top_logits_.applies(stage)) {
        context_.barrier();
        top_logits_.find(stage, thread);
    }
}

// Units of work of a task with many rows, as even as they can be.
size_t LinearRunner::n_units(const LinearTask& task) const {
    const size_t n_panels = context_.weights.matrix(task.matrix).n_panels, threads = context_.n_threads();
    const size_t n = (n_panels + kUnitPanels - 1) / kUnitPanels;
    return std::min(n_panels, (n + threads - 1) / threads * threads);
}

// Many rows: threads take units of panels as they come free.
void LinearRunner::share_panels(size_t s, const LinearStage& stage, const Thread& thread) {
    size_t total = 0;
    for (const LinearTask& task : stage.tasks) total += n_units(task);
    for (size_t i; (i = context_.take(s, 0)) < total;) {
        auto task = stage.tasks.begin();
        for (; i >= n_units(*task); ++task) i -= n_units(*task);
        const size_t n_panels = context_.weights.matrix(task->matrix).n_panels, n = n_units(*task);
        multiply_panels(stage, *task, n_panels * i / n, n_panels * (i + 1) / n, thread);
    }
}

// Few rows: each thread reads a range of a matrix's panels in one go. The last panels are taken in pieces as
// threads come free, so that a delayed thread delays the others little.
void LinearRunner::stream_panels(size_t s, const LinearStage& stage, const Thread& thread) {
    const size_t threads = context_.n_threads();
    const auto split = [&](const LinearTask& task) {
        const PackedMatrix& m = context_.weights.matrix(task.matrix);
        return split_panels(m.n_panels, m.panel_stride, threads, context_.uneven());
    };
    size_t n_pieces = 0;
    for (const LinearTask& task : stage.tasks) {
        const PanelSplit panels = split(task);
        const size_t own = panels.shared / threads;
        if (own > 0) multiply_panels(stage, task, own * thread.index, own * (thread.index + 1), thread);
        n_pieces += panels.n_pieces;
    }
    for (size_t i; (i = context_.take(s, 0)) < n_pieces;) {
        auto task = stage.tasks.begin();
        for (; i >= split(*task).n_pieces; ++task) i -= split(*task).n_pieces;
        const PanelSplit panels = split(*task);
        const size_t first = panels.shared + i * panels.piece;
        const size_t last = context_.weights.matrix(task->matrix).n_panels;
        multiply_panels(stage, *task, first, std::min(last, first + panels.piece), thread);
    }
}

size_t LinearRunner::n_columns(MatrixId matrix, const OutputTile& tile) const {
    const size_t n_out = context_.weights.matrix(matrix).n_out;
    return std::min(n_out, tile.last * kPanelRows) - tile.column();
}

size_t LinearRunner::tile_panels(const LinearTask& task, size_t tile_rows) const {
    // The panels of gate and up alternate in memory: few rows read them in that order.
    if (task.up >= 0 && context_.n_rows < kStreamRows) return 1;
    return std::max<size_t>(1, kTileFloats / kPanelRows / tile_rows);
}

// Panels [first, last) for all rows, tile by tile.
void LinearRunner::multiply_panels(const LinearStage& stage, const LinearTask& task, size_t first,
                                   size_t last, const Thread& thread) {
    const size_t n_rows = context_.n_rows, tile_rows = std::min(n_rows, kTileRows);
    const bool direct = task.direct();
    const bool whole = direct && !adapters_.updates(task.matrix);
    const size_t panels = whole ? last - first : tile_panels(task, tile_rows);
    QuantRows quant{};
    if (task.quant >= 0) quant = context_.quant_rows(stage.quants[static_cast<size_t>(task.quant)], thread);
    for (size_t p = first; p < last; p += panels) {
        for (size_t row = 0; row < n_rows; row += tile_rows) {
            const OutputTile tile{p, std::min(last, p + panels), row, std::min(tile_rows, n_rows - row)};
            if (direct) {
                multiply_direct(stage, task, quant, tile, thread);
            } else {
                multiply_tile(task, quant, tile, thread);
            }
        }
    }
}

// Products without bias, gate or epilogue are the results.
void LinearRunner::multiply_direct(const LinearStage& stage, const LinearTask& task, const QuantRows& quant,
                                   const OutputTile& tile, const Thread& thread) {
    const LinearKernels& kernels = context_.kernels.linear;
    const PackedMatrix& m = context_.weights.matrix(task.matrix);
    float* y = context_.at(task.out, tile.row, thread) + tile.column();
    if (top_logits_.applies(stage))
        return kernels.approximate(
            {m, tile.first, tile.last, &quant, nullptr, 0, tile.row, tile.n_rows, y, task.out.ld});
    kernels.matmul({m, tile.first, tile.last, &quant, context_.at(task.in, 0, thread), task.in.ld, tile.row,
                    tile.n_rows, y, task.out.ld});
    if (adapters_.updates(task.matrix)) adapters_.add_updates(task.matrix, tile, y, task.out.ld, thread);
}

void LinearRunner::multiply_tile(const LinearTask& task, const QuantRows& quant, const OutputTile& tile,
                                 const Thread& thread) {
    const float* x = context_.at(task.in, 0, thread);
    const auto multiply = [&](MatrixId matrix, float* values) {
        context_.kernels.linear.matmul({context_.weights.matrix(matrix), tile.first, tile.last, &quant, x,
                                        task.in.ld, tile.row, tile.n_rows, values, tile.width()});
        if (adapters_.updates(matrix)) adapters_.add_updates(matrix, tile, values, tile.width(), thread);
    };
    float* values = tiles_.floats(thread.index);
    float* up = up_tiles_.floats(thread.index);
    multiply(task.matrix, values);
    if (task.up >= 0) multiply(task.up, up);
    for (size_t i = 0; i < tile.n_rows; ++i) {
        finish_row(task, tile, tile.row + i, values + i * tile.width(), up + i * tile.width(), thread);
    }
}

void LinearRunner::add_bias(VectorId bias, MatrixId matrix, const OutputTile& tile, const float* values,
                            float* out) {
    const size_t first = context_.plan.matrix(matrix).row_first + tile.column();
    context_.kernels.rows.add(values, context_.weights.vector(bias) + first, n_columns(matrix, tile), out);
}

// The last operation writes to the result.
void LinearRunner::finish_row(const LinearTask& task, const OutputTile& tile, size_t row, float* values,
                              float* up, const Thread& thread) {
    float* out = context_.at(task.out, row, thread) + tile.column();
    float* end = task.epilogue.empty() ? out : values;
    if (task.bias >= 0) add_bias(task.bias, task.matrix, tile, values, task.up >= 0 ? values : end);
    if (task.up >= 0) {
        if (task.up_bias >= 0) add_bias(task.up_bias, task.up, tile, up, up);
        context_.kernels.rows.glu(task.glu.fn, values, up, n_columns(task.matrix, tile), task.glu.limit,
                                  task.glu.alpha, end);
    }
    apply_epilogue(task, tile, row, values, out, thread);
}

void LinearRunner::apply_epilogue(const LinearTask& task, const OutputTile& tile, size_t row, float* values,
                                  float* out, const Thread& thread) {
    const RowKernels& kernels = context_.kernels.rows;
    const size_t n = n_columns(task.matrix, tile), column = tile.column();
    for (const Epilogue& e : task.epilogue) {
        float* to = &e == &task.epilogue.back() ? out : values;
        const auto operand = [&] { return context_.at(e.operand, row, thread) + column; };
        std::visit(
            Cases{
                [&](const AffineOp& affine) {
                    const float* w = context_.weights.vector(affine.weight);
                    const float* b = context_.weights.vector(affine.bias);
                    kernels.affine({affine.factor, w == nullptr || affine.weight_scalar ? w : w + column,
                                    affine.weight_scalar, b == nullptr || affine.bias_scalar ? b : b + column,
                                    affine.bias_scalar},
                                   values, n, to);
                },
                [&](const ActivationOp& activation) { kernels.activation(activation.task, values, n, to); },
                [&](const SoftcapOp& softcap) { kernels.softcap(values, n, softcap.cap, to); },
                [&](const AddOp&) { kernels.add(values, operand(), n, to); },
                [&](const MulOp&) { kernels.mul(values, operand(), n, to); },
            },
            e.what);
    }
}

}  // namespace edgellm
