// SPDX-License-Identifier: MIT
// Mixture of experts: the batch's (token, expert) pairs are ordered by expert, so that each expert's matrices
// are read once and multiply all of its tokens together, in prefill as in decode.
#include <algorithm>
#include <cstring>

#include "runtime/executor.h"

namespace edgellm {

// Entries in expert order: entry_row_[entry] is the token, entry_of_[row * n_used + k] the entry of its k-th
// expert.
void Executor::group_by_expert(const MoeStage& moe) {
    const size_t n_used = moe.routing.n_used;
    const auto& chosen = chosen_[static_cast<size_t>(moe.routing.slot)];
    std::fill(expert_begin_.begin(), expert_begin_.end(), 0u);
    for (size_t i = 0; i < n_rows_ * n_used; ++i) ++expert_begin_[static_cast<size_t>(chosen[i]) + 1];
    for (size_t e = 0; e < moe.routing.n_experts; ++e) expert_begin_[e + 1] += expert_begin_[e];
    // Filling moves each begin to its end; entries of one expert stay in token order.
    for (size_t i = 0; i < n_rows_ * n_used; ++i) {
        const uint32_t entry = expert_begin_[static_cast<size_t>(chosen[i])]++;
        entry_row_[entry] = static_cast<uint32_t>(i / n_used);
        entry_of_[i] = entry;
    }
    for (size_t e = moe.routing.n_experts; e > 0; --e) expert_begin_[e] = expert_begin_[e - 1];
    expert_begin_[0] = 0;
}

void Executor::run_moe(size_t s, size_t t) {
    const MoeStage& moe = plan_.stages[s].moe;
    const size_t n_used = moe.routing.n_used;
    const size_t n_entries = n_rows_ * n_used;
    const size_t capacity = plan_.options.batch * plan_.max_used;
    Thread& thread = threads_[t];

    // The stage's memory: quantized inputs, quantized hidden rows, then the float rows.
    const size_t in_width = align_up(moe.width, 32), ff_width = align_up(moe.n_ff, 32);
    uint8_t* base = moe_region_.data();
    const QuantRows xq = quant_rows_in(base, in_width, capacity, n_entries);
    base += quant_row_bytes(in_width) * capacity;
    const QuantRows hq = quant_rows_in(base, ff_width, capacity, n_entries);
    auto* x = reinterpret_cast<float*>(base + quant_row_bytes(ff_width) * capacity);
    const size_t ldx = align_up(moe.width, 16), ldh = align_up(moe.n_ff, 16),
                 ldy = align_up(moe.out.width, 16);
    float* h = x + ldx * capacity;
    float* y = h + ldh * capacity;

    if (t == 0) group_by_expert(moe);
    pool_->barrier();

    const bool int8_in = plan_.matrices[static_cast<size_t>(moe.up)].packed.input == InputKind::kInt8;
    const bool int8_gate =
        moe.gate >= 0 && plan_.matrices[static_cast<size_t>(moe.gate)].packed.input == InputKind::kInt8;
    const bool int8_down = plan_.matrices[static_cast<size_t>(moe.down)].packed.input == InputKind::kInt8;
    const auto [begin, end] = share(n_entries, t);
    for (size_t i = begin; i < end; ++i) {
        const float* row = at(moe.x, entry_row_[i], nullptr);
        if (int8_in || int8_gate) linear_.quantize_row(row, xq, i);
        std::memcpy(x + i * ldx, row, moe.width * sizeof(float));
    }
    pool_->barrier();

    // Units of work: eight panels of one expert. Experts without tokens make none.
    constexpr size_t kPanels = 8;
    const auto for_units = [&](size_t phase, const PackedMatrix& m, auto&& work) {
        const size_t per_expert = (m.n_panels + kPanels - 1) / kPanels;
        auto& counter = counters_[s * kPhases + phase].next;
        for (size_t i;
             (i = counter.fetch_add(1, std::memory_order_relaxed)) < per_expert * moe.routing.n_experts;) {
            const size_t expert = i / per_expert, p = i % per_expert * kPanels;
            if (expert_begin_[expert] == expert_begin_[expert + 1]) continue;
            work(expert, p, std::min(m.n_panels, p + kPanels));
        }
    };
    constexpr size_t kTokens = kTileFloats / (kPanels * kPanelRows);
    for_units(
        0, plan_.matrices[static_cast<size_t>(moe.up)].packed, [&](size_t expert, size_t p, size_t p_end) {
            const size_t ld = (p_end - p) * kPanelRows, column = p * kPanelRows;
            const size_t n = std::min(moe.n_ff, p_end * kPanelRows) - column;
            for (size_t i = expert_begin_[expert]; i < expert_begin_[expert + 1]; i += kTokens) {
                const size_t count = std::min<size_t>(kTokens, expert_begin_[expert + 1] - i);
                linear_.matmul(matrix(moe.up, expert), p, p_end, &xq, x, ldx, i, count, thread.tile, ld);
                if (moe.gate >= 0) {
                    linear_.matmul(matrix(moe.gate, expert), p, p_end, &xq, x, ldx, i, count, thread.tile2,
                                   ld);
                }
                for (size_t j = 0; j < count; ++j) {
                    float* up = thread.tile + j * ld;
                    float* gate = thread.tile2 + j * ld;
                    if (moe.up_bias >= 0)
                        rows_.add(up, vector(moe.up_bias) + expert * moe.n_ff + column, n, up);
                    float* out = h + (i + j) * ldh + column;
                    if (moe.gate >= 0) {
                        if (moe.gate_bias >= 0)
                            rows_.add(gate, vector(moe.gate_bias) + expert * moe.n_ff + column, n, gate);
                        rows_.glu(moe.fn, gate, up, n, moe.limit, moe.alpha, out);
                    } else {
                        rows_.activation(moe.fn, up, n, out);
                    }
                }
            }
        });
    pool_->barrier();
    if (int8_down) {
        for (size_t i = begin; i < end; ++i) linear_.quantize_row(h + i * ldh, hq, i);
        pool_->barrier();
    }
    const size_t width = moe.out.width;
    for_units(
        1, plan_.matrices[static_cast<size_t>(moe.down)].packed, [&](size_t expert, size_t p, size_t p_end) {
            const size_t ld = (p_end - p) * kPanelRows, column = p * kPanelRows;
            const size_t n = std::min(width, p_end * kPanelRows) - column;
            for (size_t i = expert_begin_[expert]; i < expert_begin_[expert + 1]; i += kTokens) {
                const size_t count = std::min<size_t>(kTokens, expert_begin_[expert + 1] - i);
                linear_.matmul(matrix(moe.down, expert), p, p_end, &hq, h, ldh, i, count, thread.tile, ld);
                for (size_t j = 0; j < count; ++j) {
                    float* values = thread.tile + j * ld;
                    if (moe.down_bias >= 0)
                        rows_.add(values, vector(moe.down_bias) + expert * width + column, n, values);
                    std::memcpy(y + (i + j) * ldy + column, values, n * sizeof(float));
                }
            }
        });
    pool_->barrier();

    // A token adds its experts in the order they were chosen, whatever the batch.
    const auto [row_begin, row_end] = share(n_rows_, t);
    const auto& weights = chosen_weight_[static_cast<size_t>(moe.routing.slot)];
    for (size_t row = row_begin; row < row_end; ++row) {
        float* out = at(moe.out, row, nullptr);
        for (size_t k = 0; k < n_used; ++k) {
            float* part = y + entry_of_[row * n_used + k] * ldy;
            rows_.affine({.factor = weights[row * n_used + k]}, part, width, k == 0 ? out : part);
            if (k > 0) rows_.add(out, part, width, out);
        }
    }
}

}  // namespace edgellm
