// SPDX-License-Identifier: MIT
// Linears become tasks over packed matrices, with the element-wise work around them fused in.
#include <algorithm>

#include "runtime/planner.h"

namespace edgellm {

void Planner::place_linears(const std::vector<Node*>& ready_linears, LinearStage* stage) {
    std::vector<int> made_here;  // values of this stage: no epilogue may read them
    for (Node* n : ready_linears) {
        if (n->done) continue;
        n->done = true;
        int value = n->op;
        if (op(value).kind == OpKind::kLinearGroups) {
            place_groups(value, stage);
        } else {
            stage->tasks.push_back(make_linear(*n, ready_linears, made_here, &value));
        }
        made_here.push_back(value);
    }
    // Int8 matrices multiply quantized rows: the prologue ends by making them, once per distinct input.
    const auto int8 = [this](MatrixId m) { return plan_.matrix(m).packed.input == InputKind::kInt8; };
    for (LinearTask& task : stage->tasks) {
        if (int8(task.matrix)) task.quant = quant_slot(task.in, stage);
        if (task.up >= 0 && int8(task.up)) quant_slot(task.in, stage);
    }
}

LinearTask Planner::make_linear(const Node& n, const std::vector<Node*>& ready_linears,
                                const std::vector<int>& same_stage, int* value) {
    const Op& linear = op(linear_source(n.op));
    LinearTask task;
    task.in = use(linear.ins[0]);
    task.matrix = make_linear_matrix(n.op, linear);
    task.bias = sized_vector(linear, "bias", static_cast<size_t>(linear.width), nullptr);
    *value = fuse_glu(n, ready_linears, &task);
    *value = absorb_epilogue(*value, same_stage, &task.epilogue);
    task.out = new_value(*value);
    return task;
}

void Planner::place_groups(int i, LinearStage* stage) {
    const Op& o = op(i);
    const size_t groups = positive(o, "groups");
    const int weight = o.weight("weight");
    const auto& shape = decl(weight).shape;
    const ValueRef in = use(o.ins[0]);
    require(shape.size() == 3 && shape[0] == static_cast<int64_t>(groups) &&
                in.width == groups * static_cast<size_t>(shape[2]) &&
                width_of(i) == groups * static_cast<size_t>(shape[1]),
            o, decl(weight).name + " does not fit its groups");
    const auto n_out = static_cast<size_t>(shape[1]), n_in = static_cast<size_t>(shape[2]);
    const ValueRef out = new_value(i);
    for (size_t g = 0; g < groups; ++g) {
        LinearTask task;
        task.in = in;
        task.in.column += g * n_in;
        task.in.width = n_in;
        task.out = out;
        task.out.column += g * n_out;
        task.out.width = n_out;
        task.matrix = new_matrix(o, weight, g * n_out, n_out, n_in);
        stage->tasks.push_back(std::move(task));
    }
}

MatrixId Planner::make_linear_matrix(int value, const Op& linear) {
    const int weight = linear.weight("weight");
    const auto& shape = decl(weight).shape;
    const size_t n_in = width_of(linear.ins[0]);
    require(shape.size() == 2 && shape[0] == linear.width && shape[1] == static_cast<int64_t>(n_in), linear,
            decl(weight).name + " does not map " + std::to_string(n_in) + " to " +
                std::to_string(linear.width) + " values");
    const auto [first, n_out] = weight_rows(value);
    return new_matrix(linear, weight, first, n_out, n_in);
}

std::pair<size_t, size_t> Planner::weight_rows(int value) const {
    if (op(value).kind == OpKind::kLinear) return {0, width_of(value)};
    return column_slice(value);
}

MatrixId Planner::new_matrix(const Op& o, int weight, size_t row_first, size_t n_out, size_t n_in,
                             size_t n_experts, size_t expert_rows) {
    MatrixUse m;
    m.weight = weight;
    m.row_first = row_first;
    m.n_experts = n_experts;
    m.expert_rows = expert_rows == 0 ? n_out : expert_rows;
    if (!kernels_.describe(format(weight).type, n_out, n_in, &m.packed)) {
        fail(o, "the format of " + decl(weight).name + " cannot hold rows of " + std::to_string(n_in) +
                    " values");
    }
    plan_.matrices.push_back(m);
    return static_cast<MatrixId>(plan_.matrices.size() - 1);
}

int Planner::fuse_glu(const Node& n, const std::vector<Node*>& ready_linears, LinearTask* task) {
    const auto only_use = [this](int v) {
        const auto& u = uses_[static_cast<size_t>(v)];
        return u.size() == 1 && !is_output(v) ? u[0] : -1;
    };
    const int glu = only_use(n.op);
    if (glu < 0 || op(glu).kind != OpKind::kGlu || op(glu).ins[0] == op(glu).ins[1]) return n.op;
    const bool is_gate = op(glu).ins[0] == n.op;
    const int other = op(glu).ins[is_gate ? 1 : 0];
    if (only_use(other) != glu || width_of(other) != width_of(n.op)) return n.op;
    for (Node* m : ready_linears) {
        if (m->done || m->op != other) continue;
        const Op& linear = op(linear_source(other));
        const MatrixId other_matrix = make_linear_matrix(other, linear);
        const Op& mine = op(linear_source(n.op));
        if (mine.ins[0] != linear.ins[0] ||
            plan_.matrix(other_matrix).packed.input != plan_.matrix(task->matrix).packed.input) {
            plan_.matrices.pop_back();
            return n.op;
        }
        m->done = true;
        const VectorId other_bias = sized_vector(linear, "bias", static_cast<size_t>(linear.width), nullptr);
        task->up = other_matrix;
        task->up_bias = other_bias;
        if (!is_gate) {
            std::swap(task->matrix, task->up);
            std::swap(task->bias, task->up_bias);
        }
        task->glu = glu_op(op(glu));
        mark_done(glu);
        return glu;
    }
    return n.op;
}

int Planner::absorb_epilogue(int value, const std::vector<int>& same_stage, std::vector<Epilogue>* epilogue) {
    while (!is_output(value) && uses_[static_cast<size_t>(value)].size() == 1) {
        const int next = uses_[static_cast<size_t>(value)][0];
        if (made_[static_cast<size_t>(next)] || width_of(next) != width_of(value)) break;
        Epilogue e{};
        if (!make_epilogue(value, next, same_stage, &e)) break;
        epilogue->push_back(e);
        mark_done(next);
        value = next;
    }
    return value;
}

bool Planner::make_epilogue(int value, int next, const std::vector<int>& same_stage, Epilogue* e) {
    const Op& o = op(next);
    const size_t width = width_of(next);
    if (o.kind == OpKind::kAffine) return e->what = affine_op(o, width), true;
    if (o.kind == OpKind::kActivation) return e->what = activation_op(o), true;
    if (o.kind == OpKind::kSoftcap) return e->what = softcap_op(o), true;
    if (o.kind != OpKind::kAdd && o.kind != OpKind::kMul) return false;
    const int other = o.ins[0] == value ? o.ins[1] : o.ins[0];
    const bool here = std::find(same_stage.begin(), same_stage.end(), other) != same_stage.end();
    if (other == value || !made_[static_cast<size_t>(other)] || here || width_of(other) != width)
        return false;
    if (o.kind == OpKind::kAdd) {
        e->what = AddOp{};
    } else {
        e->what = MulOp{};
    }
    e->operand = use(other);
    return true;
}

int Planner::quant_slot(const ValueRef& value, LinearStage* stage) {
    for (size_t i = 0; i < stage->quants.size(); ++i) {
        const ValueRef& v = stage->quants[i].value;
        if (v.buffer == value.buffer && v.column == value.column && v.width == value.width)
            return static_cast<int>(i);
    }
    QuantSlot slot;
    slot.value = value;
    slot.n_in = value.width;
    stage->quants.push_back(slot);
    const size_t index = stage->quants.size() - 1;
    RowOp r{QuantizeOp{index}};
    r.a = value;
    stage->prologue.push_back(r);
    return static_cast<int>(index);
}

}  // namespace edgellm
