// SPDX-License-Identifier: MIT
#include "runtime/place.h"

#include <algorithm>
#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/memory.h"

namespace edgellm {
namespace {

void finish_selection(Plan* plan) {
    if (plan->hidden_stage < 0) throw ModelError("the program's hidden value is never made");
    // `hidden` is read back after the step that asks for it.
    plan->buffers[static_cast<size_t>(plan->hidden.buffer)].last = static_cast<int>(plan->stages.size());
    if (plan->select_after < 0) plan->select_after = 0;
    for (size_t i = 0; i < plan->buffers.size(); ++i) {
        const Buffer& b = plan->buffers[i];
        if (b.first <= plan->select_after && b.last > plan->select_after)
            plan->selected.push_back(static_cast<int>(i));
    }
}

void for_each_ref(Stage& s, const std::function<void(ValueRef&)>& fn) {
    for (RowOp& r : s.rows) {
        fn(r.a);
        fn(r.b);
        fn(r.out);
    }
    for (QuantSlot& q : s.quants) fn(q.value);
    for (LinearTask& t : s.linears) {
        fn(t.in);
        fn(t.out);
        for (Epilogue& e : t.epilogue) fn(e.operand);
    }
    fn(s.attend.q);
    fn(s.attend.out);
    fn(s.moe.x);
    fn(s.moe.out);
    for (ValueRef& v : s.state.ins) fn(v);
    fn(s.state.out);
}

// What a prologue makes gets a private place too; what later stages read of it is exported by one thread.
void make_private(Plan* plan, int s, Stage* stage) {
    size_t bytes = 0;
    std::map<int, ptrdiff_t> offsets;  // buffer -> private floats
    for (const RowOp& r : stage->rows) {
        if (r.out.buffer < 0 || offsets.count(r.out.buffer) != 0) continue;
        offsets[r.out.buffer] = static_cast<ptrdiff_t>(bytes / sizeof(float));
        bytes += plan->buffers[static_cast<size_t>(r.out.buffer)].floats_per_row * plan->private_rows *
                 sizeof(float);
    }
    const auto assign = [&](ValueRef& v) {
        const auto it = offsets.find(v.buffer);
        if (it != offsets.end()) v.private_offset = it->second + static_cast<ptrdiff_t>(v.column);
    };
    for_each_ref(*stage, assign);
    std::vector<RowOp> exports;
    for (const auto& [buffer, offset] : offsets) {
        const Buffer& b = plan->buffers[static_cast<size_t>(buffer)];
        if (b.last == s) continue;
        RowOp r{};
        r.kind = RowOpKind::kExport;
        r.a.buffer = buffer;
        r.a.width = b.floats_per_row;
        r.a.offset = b.offset * plan->options.batch;
        r.a.ld = b.floats_per_row;
        r.a.private_offset = offset;
        exports.push_back(r);
    }
    stage->rows.insert(stage->rows.end(), exports.begin(), exports.end());
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

// First-fit placement of the buffers by their lifetimes, then private offsets for what prologues make.
void place_buffers(Plan* plan) {
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

    plan->private_rows = std::max<size_t>(1, plan->options.n_threads - 1);
    const auto resolve = [plan](ValueRef& v) {
        if (v.buffer < 0) return;
        const Buffer& b = plan->buffers[static_cast<size_t>(v.buffer)];
        v.offset = b.offset * plan->options.batch + v.column;
        v.ld = b.floats_per_row;
    };
    resolve(plan->hidden);
    for (size_t s = 0; s < plan->stages.size(); ++s) {
        Stage& stage = plan->stages[s];
        for_each_ref(stage, resolve);
        if (stage.kind == StageKind::kLinear) make_private(plan, static_cast<int>(s), &stage);
    }
}

// A head that is much of what a token reads is split, so that its largest logits can be found without reading
// all of it (run_largest.cc). Where it is less, that saves little, and split codes cost batches more.
void split_head(Plan* plan) {
    constexpr double kMuch = 0.4;
    for (const LinearTask& t : plan->stages.back().linears) {
        PackedMatrix& head = plan->matrices[static_cast<size_t>(t.matrix)].packed;
        if (t.out.buffer != kLogitsBuffer || t.bias >= 0 || t.up >= 0 || !t.epilogue.empty()) continue;
        size_t all = 0;
        for (const MatrixUse& m : plan->matrices) all += matrix_bytes(m.packed) * m.n_experts;
        if (static_cast<double>(matrix_bytes(head)) > kMuch * static_cast<double>(all)) split_matrix(&head);
    }
}

void place_matrices(Plan* plan) {
    const auto place = [plan](int first, int second) {
        MatrixUse& a = plan->matrices[static_cast<size_t>(first)];
        a.packed.panel_stride = a.packed.panel_bytes;
        a.offset = plan->weight_bytes;
        if (second >= 0) {  // interleaved panel by panel: one stream
            MatrixUse& b = plan->matrices[static_cast<size_t>(second)];
            a.packed.panel_stride = b.packed.panel_stride = a.packed.panel_bytes + b.packed.panel_bytes;
            b.offset = a.offset + a.packed.panel_bytes;
            b.expert_stride = a.packed.panel_stride * a.packed.n_panels;
        }
        a.expert_stride = matrix_bytes(a.packed);
        plan->weight_bytes = align_up(plan->weight_bytes + a.expert_stride * a.n_experts, 64);
    };
    for (const Stage& s : plan->stages) {
        for (const LinearTask& t : s.linears) place(t.matrix, t.up);
        if (s.kind != StageKind::kMoe) continue;
        if (s.moe.gate >= 0) {
            place(s.moe.gate, s.moe.up);
        } else {
            place(s.moe.up, -1);
        }
        place(s.moe.down, -1);
    }
}

}  // namespace

void place_memory(Plan* plan) {
    finish_selection(plan);
    place_buffers(plan);
    split_head(plan);
    place_matrices(plan);
}

}  // namespace edgellm
