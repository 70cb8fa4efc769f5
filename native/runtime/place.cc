// SPDX-License-Identifier: MIT
#include "runtime/place.h"

#include <algorithm>
#include <map>
#include <utility>
#include <variant>
#include <vector>

#include "base/error.h"
#include "base/memory.h"

namespace edgellm {
namespace {

bool chooses(const std::vector<RowOp>& ops, int slot) {
    return std::any_of(ops.begin(), ops.end(), [slot](const RowOp& op) {
        const auto* routing = std::get_if<Routing>(&op.what);
        return routing != nullptr && routing->slot == slot;
    });
}

bool chooses(const Stage& stage, int slot) {
    if (const auto* rows = std::get_if<RowStage>(&stage)) return chooses(rows->ops, slot);
    if (const auto* linear = std::get_if<LinearStage>(&stage)) return chooses(linear->prologue, slot);
    return false;
}

// Experts of a layer whose attention runs beside them may be chosen before the selection of rows.
void select_routings(ExecutionPlan* plan) {
    const auto first_late = plan->stages.begin() + plan->select_after + 1;
    for (auto late = first_late; late != plan->stages.end(); ++late) {
        const auto* moe = std::get_if<MoeStage>(&*late);
        if (moe == nullptr) continue;
        const int slot = moe->routing.slot;
        if (std::any_of(plan->stages.begin(), first_late,
                        [slot](const Stage& s) { return chooses(s, slot); }))
            plan->selected_routings.push_back(moe->routing);
    }
}

void finish_selection(ExecutionPlan* plan) {
    if (plan->hidden_stage < 0) throw ModelError("the program's hidden value is never made");
    // `hidden` is read back after the step that asks for it.
    plan->buffers[static_cast<size_t>(plan->hidden.buffer)].last = static_cast<int>(plan->stages.size());
    if (plan->select_after < 0) plan->select_after = 0;
    for (size_t i = 0; i < plan->buffers.size(); ++i) {
        const Buffer& b = plan->buffers[i];
        if (b.first <= plan->select_after && b.last > plan->select_after)
            plan->selected.push_back(static_cast<int>(i));
    }
    select_routings(plan);
}

// Rows of a prologue that later stages read are exported: one thread copies them to shared memory.
void export_values(const ExecutionPlan& plan, int s, const std::map<int, ptrdiff_t>& offsets,
                   std::vector<RowOp>* ops) {
    for (const auto& [buffer, offset] : offsets) {
        const Buffer& b = plan.buffers[static_cast<size_t>(buffer)];
        if (b.last == s) continue;
        RowOp r{ExportOp{}};
        r.a.buffer = buffer;
        r.a.width = b.floats_per_row;
        r.a.offset = b.offset * plan.options.batch;
        r.a.ld = b.floats_per_row;
        r.a.private_offset = offset;
        ops->push_back(r);
    }
}

// Values that a prologue makes get a place in private memory as well, quantized rows after them.
void make_private(ExecutionPlan* plan, int s, LinearStage* stage) {
    size_t bytes = 0;
    std::map<int, ptrdiff_t> offsets;  // buffer -> private floats
    for (const RowOp& r : stage->prologue) {
        if (r.out.buffer < 0 || offsets.count(r.out.buffer) != 0) continue;
        offsets[r.out.buffer] = static_cast<ptrdiff_t>(bytes / sizeof(float));
        bytes += plan->buffers[static_cast<size_t>(r.out.buffer)].floats_per_row * plan->private_rows *
                 sizeof(float);
    }
    stage->for_each_value([&](ValueRef& v) {
        const auto it = offsets.find(v.buffer);
        if (it != offsets.end()) v.private_offset = it->second + static_cast<ptrdiff_t>(v.column);
    });
    export_values(*plan, s, offsets, &stage->prologue);
    size_t quant = 0;
    for (QuantSlot& q : stage->quants) {
        q.offset = quant;
        q.private_offset = bytes;
        quant += quant_row_bytes(q.n_in);
        bytes += quant_row_bytes(q.n_in) * plan->private_rows;
    }
    plan->quant_bytes_per_row = std::max(plan->quant_bytes_per_row, quant);
    plan->private_bytes = std::max(plan->private_bytes, align_up(bytes, 64));
}

// Gives each value the address of its buffer.
void resolve_values(ExecutionPlan* plan) {
    const auto resolve = [plan](ValueRef& v) {
        if (v.buffer < 0) return;
        const Buffer& b = plan->buffers[static_cast<size_t>(v.buffer)];
        v.offset = b.offset * plan->options.batch + v.column;
        v.ld = b.floats_per_row;
    };
    resolve(plan->hidden);
    plan->private_rows = std::max<size_t>(1, plan->options.n_threads - 1);
    for (size_t s = 0; s < plan->stages.size(); ++s) {
        std::visit([&](auto& stage) { stage.for_each_value(resolve); }, plan->stages[s]);
        if (auto* linear = std::get_if<LinearStage>(&plan->stages[s]))
            make_private(plan, static_cast<int>(s), linear);
    }
}

// First-fit placement of the buffers by their lifetimes.
void place_buffers(ExecutionPlan* plan) {
    std::vector<size_t> order(plan->buffers.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [plan](size_t a, size_t b) {
        return plan->buffers[a].floats_per_row > plan->buffers[b].floats_per_row;
    });
    std::vector<size_t> placed;
    for (size_t i : order) {
        Buffer& b = plan->buffers[i];
        std::vector<std::pair<size_t, size_t>> taken;
        for (size_t j : placed) {
            const Buffer& o = plan->buffers[j];
            if (o.first <= b.last && b.first <= o.last)
                taken.emplace_back(o.offset, o.offset + o.floats_per_row);
        }
        std::sort(taken.begin(), taken.end());
        size_t at = 0;
        for (const auto& [begin, end] : taken) {
            if (at + b.floats_per_row <= begin) break;
            at = std::max(at, end);
        }
        b.offset = at;
        plan->arena_floats_per_row = std::max(plan->arena_floats_per_row, at + b.floats_per_row);
        placed.push_back(i);
    }
}

// A head that is a large part of the weights a token reads is split, so that its largest logits can be found
// without reading all of it (run_top_logits.h). A smaller one gains little, and split codes cost batches
// more.
void split_head(ExecutionPlan* plan) {
    constexpr double kHeadShare = 0.4;
    const auto* last = std::get_if<LinearStage>(&plan->stages.back());
    if (last == nullptr || last->tasks.size() != 1) return;
    const LinearTask& task = last->tasks[0];
    if (task.out.buffer != kLogitsBuffer || !task.direct()) return;
    size_t all = 0;
    for (const MatrixUse& m : plan->matrices) all += matrix_bytes(m.packed) * m.n_experts;
    PackedMatrix& head = plan->matrix(task.matrix).packed;
    if (static_cast<double>(matrix_bytes(head)) > kHeadShare * static_cast<double>(all)) split_matrix(&head);
}

// Places matrix `first`; panels of a matrix `second`, unless it is -1, alternate with its own: one stream.
void place_matrix(ExecutionPlan* plan, MatrixId first, MatrixId second) {
    MatrixUse& a = plan->matrix(first);
    a.packed.panel_stride = a.packed.panel_bytes;
    a.offset = plan->weight_bytes;
    if (second >= 0) {
        MatrixUse& b = plan->matrix(second);
        a.packed.panel_stride = b.packed.panel_stride = a.packed.panel_bytes + b.packed.panel_bytes;
        b.offset = a.offset + a.packed.panel_bytes;
        b.expert_stride = a.packed.panel_stride * a.packed.n_panels;
    }
    a.expert_stride = matrix_bytes(a.packed);
    plan->weight_bytes = align_up(plan->weight_bytes + a.expert_stride * a.n_experts, 64);
}

void place_matrices(ExecutionPlan* plan) {
    const auto place = [plan](MatrixId first, MatrixId second) { place_matrix(plan, first, second); };
    for (const Stage& stage : plan->stages) {
        std::visit([&](const auto& s) { s.for_each_matrix(place); }, stage);
    }
}

}  // namespace

void place_memory(ExecutionPlan* plan) {
    finish_selection(plan);
    place_buffers(plan);
    resolve_values(plan);
    split_head(plan);
    place_matrices(plan);
}

}  // namespace edgellm
