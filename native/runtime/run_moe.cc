// SPDX-License-Identifier: MIT
#include "runtime/run_moe.h"

#include <algorithm>
#include <cstring>

namespace edgellm {
namespace {

constexpr size_t kUnitPanels = 8;  // panels of one unit of work
constexpr size_t kTileRows = 144;
constexpr size_t kTileFloats = kTileRows * kUnitPanels * kPanelRows;

}  // namespace

MoeRunner::MoeRunner(RunContext* context, const Router& router) : context_(*context), router_(router) {
    const ExecutionPlan& plan = context->plan;
    if (plan.n_moe == 0) return;
    const size_t capacity = plan.options.batch * plan.max_used;
    rows_ = Region(capacity * plan.moe_row_bytes + 4096, false);
    tiles_ = ThreadScratch(context->max_threads(), kTileFloats * sizeof(float));
    gate_tiles_ = ThreadScratch(context->max_threads(), kTileFloats * sizeof(float));
    entry_row_.resize(capacity);
    entry_of_.resize(capacity);
    expert_begin_.resize(plan.max_experts + 1);
}

void MoeRunner::run(size_t s, const MoeStage& moe, size_t t) {
    const Rows rows = rows_of(moe);
    if (t == 0) order_by_expert(moe);
    context_.barrier();
    gather_inputs(moe, rows, t);
    context_.barrier();
    for_units(s, 0, moe, moe.up, [&](const Panels& panels) { multiply_in(moe, rows, panels, t); });
    context_.barrier();
    if (int8(moe.down)) {
        quantize_hidden(moe, rows, t);
        context_.barrier();
    }
    for_units(s, 1, moe, moe.down, [&](const Panels& panels) { multiply_down(moe, rows, panels, t); });
    context_.barrier();
    add_experts(moe, rows, t);
}

MoeRunner::Rows MoeRunner::rows_of(const MoeStage& moe) const {
    const size_t capacity = context_.plan.options.batch * context_.plan.max_used, n = n_entries(moe);
    const size_t in_width = align_up(moe.width, 32), ff_width = align_up(moe.n_ff, 32);
    uint8_t* base = rows_.data();
    Rows r;
    r.x_quant = quant_rows_in(base, in_width, capacity, n);
    base += quant_row_bytes(in_width) * capacity;
    r.hidden_quant = quant_rows_in(base, ff_width, capacity, n);
    base += quant_row_bytes(ff_width) * capacity;
    r.x_ld = align_up(moe.width, 16);
    r.hidden_ld = align_up(moe.n_ff, 16);
    r.y_ld = align_up(moe.out.width, 16);
    r.x = reinterpret_cast<float*>(base);
    r.hidden = r.x + r.x_ld * capacity;
    r.y = r.hidden + r.hidden_ld * capacity;
    return r;
}

void MoeRunner::order_by_expert(const MoeStage& moe) {
    const size_t n_used = moe.routing.n_used, n_experts = moe.routing.n_experts, n = n_entries(moe);
    const int32_t* chosen = router_.experts(moe.routing.slot);
    std::fill(expert_begin_.begin(), expert_begin_.end(), 0u);
    for (size_t i = 0; i < n; ++i) ++expert_begin_[static_cast<size_t>(chosen[i]) + 1];
    for (size_t e = 0; e < n_experts; ++e) expert_begin_[e + 1] += expert_begin_[e];
    // Filling moves each begin to its end; entries of one expert stay in token order.
    for (size_t i = 0; i < n; ++i) {
        const uint32_t entry = expert_begin_[static_cast<size_t>(chosen[i])]++;
        entry_row_[entry] = static_cast<uint32_t>(i / n_used);
        entry_of_[i] = entry;
    }
    for (size_t e = n_experts; e > 0; --e) expert_begin_[e] = expert_begin_[e - 1];
    expert_begin_[0] = 0;
}

bool MoeRunner::int8(MatrixId matrix) const {
    return matrix >= 0 && context_.weights.matrix(matrix).input == InputKind::kInt8;
}

void MoeRunner::gather_inputs(const MoeStage& moe, const Rows& rows, size_t t) {
    const bool quantized = int8(moe.up) || int8(moe.gate);
    const auto [begin, end] = context_.share(n_entries(moe), t);
    for (size_t i = begin; i < end; ++i) {
        const float* row = context_.at(moe.x, entry_row_[i]);
        if (quantized) context_.kernels.linear.quantize_row(row, rows.x_quant, i);
        std::memcpy(rows.x + i * rows.x_ld, row, moe.width * sizeof(float));
    }
}

void MoeRunner::quantize_hidden(const MoeStage& moe, const Rows& rows, size_t t) {
    const auto [begin, end] = context_.share(n_entries(moe), t);
    for (size_t i = begin; i < end; ++i)
        context_.kernels.linear.quantize_row(rows.hidden + i * rows.hidden_ld, rows.hidden_quant, i);
}

template <class Work>
void MoeRunner::for_units(size_t s, size_t phase, const MoeStage& moe, MatrixId matrix, const Work& work) {
    const size_t n_panels = context_.weights.matrix(matrix).n_panels;
    const size_t per_expert = (n_panels + kUnitPanels - 1) / kUnitPanels;
    for (size_t i; (i = context_.take(s, phase)) < per_expert * moe.routing.n_experts;) {
        const size_t expert = i / per_expert, first = i % per_expert * kUnitPanels;
        if (expert_begin_[expert] == expert_begin_[expert + 1]) continue;
        work(Panels{expert, first, std::min(n_panels, first + kUnitPanels)});
    }
}

template <class Fn>
void MoeRunner::for_entries(size_t expert, const Fn& fn) const {
    const size_t end = expert_begin_[expert + 1];
    for (size_t i = expert_begin_[expert]; i < end; i += kTileRows) fn(i, std::min(kTileRows, end - i));
}

void MoeRunner::add_bias(VectorId bias, size_t first, size_t n, float* values) const {
    if (bias < 0) return;
    context_.kernels.rows.add(values, context_.weights.vector(bias) + first, n, values);
}

void MoeRunner::multiply_in(const MoeStage& moe, const Rows& rows, const Panels& p, size_t t) {
    const size_t ld = (p.last - p.first) * kPanelRows, column = p.first * kPanelRows;
    const size_t n = std::min(moe.n_ff, p.last * kPanelRows) - column;
    const size_t bias = p.expert * moe.n_ff + column;
    const RowKernels& kernels = context_.kernels.rows;
    float* up_tile = tiles_.floats(t);
    float* gate_tile = gate_tiles_.floats(t);
    for_entries(p.expert, [&](size_t entry, size_t count) {
        const auto multiply = [&](MatrixId matrix, float* tile) {
            context_.kernels.linear.matmul({context_.weights.expert(matrix, p.expert), p.first, p.last,
                                            &rows.x_quant, rows.x, rows.x_ld, entry, count, tile, ld});
        };
        multiply(moe.up, up_tile);
        if (moe.gate >= 0) multiply(moe.gate, gate_tile);
        for (size_t j = 0; j < count; ++j) {
            float* up = up_tile + j * ld;
            float* gate = gate_tile + j * ld;
            float* out = rows.hidden + (entry + j) * rows.hidden_ld + column;
            add_bias(moe.up_bias, bias, n, up);
            if (moe.gate >= 0) {
                add_bias(moe.gate_bias, bias, n, gate);
                kernels.glu(moe.glu.fn, gate, up, n, moe.glu.limit, moe.glu.alpha, out);
            } else {
                kernels.activation({moe.glu.fn}, up, n, out);
            }
        }
    });
}

void MoeRunner::multiply_down(const MoeStage& moe, const Rows& rows, const Panels& p, size_t t) {
    const size_t ld = (p.last - p.first) * kPanelRows, column = p.first * kPanelRows;
    const size_t width = moe.out.width, n = std::min(width, p.last * kPanelRows) - column;
    float* tile = tiles_.floats(t);
    for_entries(p.expert, [&](size_t entry, size_t count) {
        context_.kernels.linear.matmul({context_.weights.expert(moe.down, p.expert), p.first, p.last,
                                        &rows.hidden_quant, rows.hidden, rows.hidden_ld, entry, count, tile,
                                        ld});
        for (size_t j = 0; j < count; ++j) {
            float* values = tile + j * ld;
            add_bias(moe.down_bias, p.expert * width + column, n, values);
            std::memcpy(rows.y + (entry + j) * rows.y_ld + column, values, n * sizeof(float));
        }
    });
}

// A token adds its experts in the order they were chosen, whatever the batch.
void MoeRunner::add_experts(const MoeStage& moe, const Rows& rows, size_t t) {
    const size_t n_used = moe.routing.n_used, width = moe.out.width;
    const float* weights = router_.weights(moe.routing.slot);
    const RowKernels& kernels = context_.kernels.rows;
    const auto [begin, end] = context_.share(context_.n_rows, t);
    for (size_t row = begin; row < end; ++row) {
        float* out = context_.at(moe.out, row);
        for (size_t k = 0; k < n_used; ++k) {
            float* part = rows.y + entry_of_[row * n_used + k] * rows.y_ld;
            kernels.affine({weights[row * n_used + k]}, part, width, k == 0 ? out : part);
            if (k > 0) kernels.add(out, part, width, out);
        }
    }
}

}  // namespace edgellm
