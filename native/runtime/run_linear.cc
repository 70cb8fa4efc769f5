// SPDX-License-Identifier: MIT
// Linear stages: a prologue of row operations, the matrices' panels shared out among threads, and an epilogue
// on each tile of results while it is in cache.
#include <algorithm>
#include <cstring>

#include "runtime/executor.h"

namespace edgellm {
namespace {

// Fewer rows than this: a stage is so short that a thread which waits for another one at its end shows.
constexpr size_t kStreamRows = 33;
// All but a fifth of a matrix's panels are given out beforehand; the rest in some pieces for each thread, but
// none smaller than what is worth the while.
constexpr size_t kOwnParts = 5;
constexpr size_t kPiecesPerThread = 4;
constexpr size_t kPieceBytes = 24 << 10;
constexpr size_t kTileTokens = QuantRows::kGroup;
// Most panels of a chunk of work: few enough that threads end together.
constexpr size_t kChunkPanels = 12;

}  // namespace

void Executor::run_linear(size_t s, size_t t, bool prologue_only) {
    const Stage& stage = plan_.stages[s];
    const size_t rows = n_rows_;
    uint8_t* memory = nullptr;
    if (!stage.rows.empty()) {
        if (rows < pool_->size() && !prologue_only) {
            // Every thread computes the few rows for itself: cheaper than a barrier.
            memory = threads_[t].private_memory;
            run_rows(stage, 0, rows, memory, t);
        } else {
            const auto [begin, end] = share(rows, t);
            run_rows(stage, begin, end, nullptr, t);
            pool_->barrier();
        }
    }
    if (prologue_only) return;
    if (adapted_ && !adapters_.products(s).empty()) {
        make_low_values(s, memory);
        pool_->barrier();
    }

    multiply_panels(stage, s, t, memory);
    if (finds_largest(stage)) {
        pool_->barrier();
        find_largest(stage, t, memory);
    }
}

void Executor::multiply_panels(const Stage& stage, size_t s, size_t t, uint8_t* memory) {
    if (n_rows_ < kStreamRows) {
        stream_panels(stage, s, t, memory);
        return;
    }
    // Many rows: chunks of panels, as even as they can be, taken as threads come free.
    const auto chunks_of = [this](const LinearTask& task) {
        const size_t n_panels = plan_.matrices[static_cast<size_t>(task.matrix)].packed.n_panels;
        const size_t n = (n_panels + kChunkPanels - 1) / kChunkPanels;
        return std::min(n_panels, (n + pool_->size() - 1) / pool_->size() * pool_->size());
    };
    size_t n_chunks = 0;
    for (const LinearTask& task : stage.linears) n_chunks += chunks_of(task);
    auto& counter = counters_[s * kPhases].next;
    for (size_t i; (i = counter.fetch_add(1, std::memory_order_relaxed)) < n_chunks;) {
        size_t left = i;
        for (const LinearTask& task : stage.linears) {
            const size_t n_panels = plan_.matrices[static_cast<size_t>(task.matrix)].packed.n_panels;
            const size_t chunks = chunks_of(task);
            if (left < chunks) {
                linear_chunk(stage, task, n_panels * left / chunks, n_panels * (left + 1) / chunks, memory,
                             t);
                break;
            }
            left -= chunks;
        }
    }
}

// Few rows: most panels of a matrix are the threads' own, one range each, read in one go; the last are taken
// in pieces as threads come free, so that one that was held up delays the others little.
void Executor::stream_panels(const Stage& stage, size_t s, size_t t, uint8_t* memory) {
    const size_t threads = pool_->size();
    struct Split {
        size_t shared, piece, n_pieces;  // panels [shared, n_panels) in pieces
    };
    const auto split = [this, threads](const LinearTask& task) {
        const PackedMatrix& m = plan_.matrices[static_cast<size_t>(task.matrix)].packed;
        if (threads == 1) return Split{m.n_panels, 1, 0};
        const size_t own = m.n_panels * (kOwnParts - 1) / kOwnParts / threads;
        const size_t left = m.n_panels - own * threads;
        const size_t piece =
            std::max({size_t{1}, kPieceBytes / m.panel_stride, left / (kPiecesPerThread * threads)});
        return Split{own * threads, piece, (left + piece - 1) / piece};
    };
    size_t n_pieces = 0;
    for (const LinearTask& task : stage.linears) {
        const Split at = split(task);
        const size_t own = at.shared / threads;
        if (own > 0) linear_chunk(stage, task, own * t, own * (t + 1), memory, t);
        n_pieces += at.n_pieces;
    }
    auto& counter = counters_[s * kPhases].next;
    for (size_t i; (i = counter.fetch_add(1, std::memory_order_relaxed)) < n_pieces;) {
        for (const LinearTask& task : stage.linears) {
            const Split at = split(task);
            if (i < at.n_pieces) {
                const size_t first = at.shared + i * at.piece;
                const size_t last = plan_.matrices[static_cast<size_t>(task.matrix)].packed.n_panels;
                linear_chunk(stage, task, first, std::min(last, first + at.piece), memory, t);
                break;
            }
            i -= at.n_pieces;
        }
    }
}

void Executor::linear_chunk(const Stage& stage, const LinearTask& task, size_t first, size_t last,
                            uint8_t* memory, size_t t) {
    const size_t rows = n_rows_;
    const PackedMatrix m = matrix(task.matrix);
    QuantRows quant{};
    if (task.quant >= 0) quant = quant_rows(stage, task.quant, memory);
    const size_t tokens = std::min(rows, kTileTokens);
    const bool updated = adapted_ && !adapters_.updates(task.matrix).empty();
    const bool direct = task.bias < 0 && task.up < 0 && task.epilogue.empty();
    size_t panels = std::max<size_t>(1, kTileFloats / kPanelRows / tokens);
    if (direct && !updated) panels = last - first;
    // The panels of gate and up alternate in memory: few rows read them in that order.
    if (task.up >= 0 && rows < kStreamRows) panels = 1;
    Thread& thread = threads_[t];
    for (size_t p = first; p < last; p += panels) {
        const size_t p_end = std::min(last, p + panels);
        const size_t ld = (p_end - p) * kPanelRows;
        const size_t column = p * kPanelRows;
        const size_t n = std::min(size_t{m.n_out}, p_end * kPanelRows) - column;
        for (size_t row = 0; row < rows; row += tokens) {
            const size_t count = std::min(tokens, rows - row);
            const float* x = at(task.in, 0, memory);
            if (direct) {
                float* y = at(task.out, row, memory) + column;
                if (finds_largest(stage)) {
                    linear_.approximate(m, p, p_end, &quant, row, count, y, task.out.ld);
                    continue;
                }
                linear_.matmul(m, p, p_end, &quant, x, task.in.ld, row, count, y, task.out.ld);
                if (updated) add_updates(task.matrix, p, p_end, row, count, y, task.out.ld, thread.update);
                continue;
            }
            linear_.matmul(m, p, p_end, &quant, x, task.in.ld, row, count, thread.tile, ld);
            if (adapted_) add_updates(task.matrix, p, p_end, row, count, thread.tile, ld, thread.update);
            if (task.up >= 0) {
                linear_.matmul(matrix(task.up), p, p_end, &quant, x, task.in.ld, row, count, thread.tile2,
                               ld);
                if (adapted_) add_updates(task.up, p, p_end, row, count, thread.tile2, ld, thread.update);
            }
            for (size_t i = 0; i < count; ++i) {
                // The last operation writes to where the result belongs.
                float* values = thread.tile + i * ld;
                float* out = at(task.out, row + i, memory) + column;
                float* end = task.epilogue.empty() ? out : values;
                if (task.bias >= 0) {
                    const size_t at_bias =
                        plan_.matrices[static_cast<size_t>(task.matrix)].row_first + column;
                    rows_.add(values, vector(task.bias) + at_bias, n, task.up >= 0 ? values : end);
                }
                if (task.up >= 0) {
                    float* up = thread.tile2 + i * ld;
                    if (task.up_bias >= 0) {
                        const size_t at_bias =
                            plan_.matrices[static_cast<size_t>(task.up)].row_first + column;
                        rows_.add(up, vector(task.up_bias) + at_bias, n, up);
                    }
                    rows_.glu(task.glu, values, up, n, task.limit, task.alpha, end);
                }
                apply_epilogue(task, column, n, row + i, values, out, memory);
            }
        }
    }
}

void Executor::apply_epilogue(const LinearTask& task, size_t column, size_t n, size_t row, float* values,
                              float* out, uint8_t* memory) {
    for (const Epilogue& e : task.epilogue) {
        float* to = &e == &task.epilogue.back() ? out : values;
        switch (e.kind) {
            case EpilogueKind::kAffine: {
                const float* w = vector(e.weight);
                const float* b = vector(e.bias);
                rows_.affine({e.factor, w == nullptr || e.weight_scalar ? w : w + column, e.weight_scalar,
                              b == nullptr || e.bias_scalar ? b : b + column, e.bias_scalar},
                             values, n, to);
                break;
            }
            case EpilogueKind::kActivation:
                rows_.activation(e.fn, values, n, to);
                break;
            case EpilogueKind::kSoftcap:
                rows_.softcap(values, n, e.cap, to);
                break;
            case EpilogueKind::kAdd:
                rows_.add(values, at(e.operand, row, memory) + column, n, to);
                break;
            case EpilogueKind::kMul:
                rows_.mul(values, at(e.operand, row, memory) + column, n, to);
                break;
        }
    }
}

}  // namespace edgellm
