// SPDX-License-Identifier: MIT
// The order of the work: operations that are ready become stages, level by level.
#include <algorithm>

#include "base/error.h"
#include "base/memory.h"
#include "runtime/place.h"
#include "runtime/planner.h"

namespace edgellm {

void fail(const Op& op, const std::string& what) {
    throw ModelError("op " + op.name + ": " + what);
}

void require(bool ok, const Op& op, const std::string& what) {
    if (!ok) fail(op, what);
}

void expect(const Op& op, const std::string& what, size_t found, size_t expected) {
    if (found == expected) return;
    fail(op, what + " is " + std::to_string(found) + ", expected " + std::to_string(expected));
}

Activation parse_activation(const Op& op, const std::string& name) {
    Activation kind;
    if (activation_from_name(name, &kind)) return kind;
    fail(op, "unknown activation '" + name + "'");
}

ExecutionPlan Planner::make() {
    prepare_state();
    count_uses();
    make_nodes();
    schedule();
    place_memory(&plan_);
    return std::move(plan_);
}

void Planner::prepare_state() {
    for (const StateDecl& s : p_.states) {
        plan_.state_offsets.push_back(plan_.state_floats);
        plan_.state_floats += align_up(static_cast<size_t>(s.size), 16);
    }
    plan_.cache_shapes.resize(p_.caches.size());
    for (size_t i = 0; i < p_.caches.size(); ++i) {
        AttentionShape& s = plan_.cache_shapes[i];
        s = {};
        s.n_kv_heads = static_cast<uint32_t>(p_.caches[i].n_kv_heads);
        s.key_dim = static_cast<uint32_t>(p_.caches[i].key_dim);
        s.value_dim = static_cast<uint32_t>(p_.caches[i].value_dim);
        s.window = static_cast<uint32_t>(p_.caches[i].window);
        s.kv_type = plan_.options.kv_type;
    }
}

void Planner::count_uses() {
    uses_.resize(p_.ops.size());
    for (size_t i = 0; i < p_.ops.size(); ++i) {
        for (int in : p_.ops[i].ins) uses_[static_cast<size_t>(in)].push_back(static_cast<int>(i));
    }
    refs_.resize(p_.ops.size());
}

bool Planner::splits_into_slices(int i) const {
    if (op(i).kind != OpKind::kLinear || is_output(i) || uses_[static_cast<size_t>(i)].empty()) return false;
    for (int use : uses_[static_cast<size_t>(i)]) {
        if (!is_column_slice(op(use))) return false;
    }
    return true;
}

void Planner::make_nodes() {
    for (int i = 0; i < static_cast<int>(p_.ops.size()); ++i) {
        const Op& o = op(i);
        if (o.kind == OpKind::kAttention) {
            nodes_.push_back({i, Part::kKvWrite});
            nodes_.push_back({i, Part::kAttend});
        } else if (o.kind == OpKind::kMoe) {
            nodes_.push_back({i, Part::kRoute});
            nodes_.push_back({i, Part::kExperts});
        } else if (!splits_into_slices(i)) {
            nodes_.push_back({i, Part::kWhole});
        }
    }
    made_.assign(p_.ops.size(), false);
    written_.assign(p_.ops.size(), false);
}

int Planner::linear_source(int i) const {
    if (op(i).kind == OpKind::kLinear) return i;
    if (is_column_slice(op(i)) && splits_into_slices(op(i).ins[0])) return op(i).ins[0];
    return -1;
}

bool Planner::is_linear(const Node& n) const {
    return linear_source(n.op) >= 0 || op(n.op).kind == OpKind::kLinearGroups;
}

bool Planner::ready(const Node& n) const {
    const Op& o = op(n.op);
    const auto made = [this](int v) { return made_[static_cast<size_t>(v)]; };
    switch (n.part) {
        case Part::kKvWrite:
            return made(o.ins[1]) && made(o.ins[2]);
        case Part::kAttend:
            return made(o.ins[0]) && written_[static_cast<size_t>(n.op)];
        case Part::kRoute:
            return made(o.ins[1]);
        case Part::kExperts:
            return made(o.ins[0]) && written_[static_cast<size_t>(n.op)];
        case Part::kWhole:
            break;
    }
    if (o.kind == OpKind::kAttentionShared) {
        const int64_t cache = o.integer("cache");
        for (size_t i = 0; i < p_.ops.size(); ++i) {
            if (p_.ops[i].kind == OpKind::kAttention && p_.ops[i].integer("cache") == cache && !made_[i])
                return false;
        }
    }
    const int linear = linear_source(n.op);
    if (linear >= 0) return made(op(linear).ins[0]);
    return std::all_of(o.ins.begin(), o.ins.end(), made);
}

bool Planner::row_local(const Node& n, OpKind kind) {
    if (n.part == Part::kKvWrite || n.part == Part::kRoute) return true;
    if (n.part != Part::kWhole) return false;
    switch (kind) {
        case OpKind::kLinear:
        case OpKind::kLinearGroups:
        case OpKind::kAttentionShared:
        case OpKind::kShortConv:
        case OpKind::kGatedDelta:
        case OpKind::kSsm:
            return false;
        default:
            return true;
    }
}

std::vector<RowOp> Planner::place_ready_rows() {
    std::vector<RowOp> ops;
    for (bool more = true; more;) {
        more = false;
        for (Node& n : nodes_) {
            if (n.done || is_linear(n) || !row_local(n, op(n.op).kind) || !ready(n)) continue;
            place_row(n, &ops);
            n.done = true;
            more = true;
        }
    }
    return ops;
}

bool Planner::place_ready_linears(std::vector<RowOp>* ops) {
    std::vector<Node*> linears;
    for (Node& n : nodes_) {
        if (!n.done && is_linear(n) && ready(n)) linears.push_back(&n);
    }
    if (linears.empty()) return false;
    LinearStage stage;
    stage.prologue = std::move(*ops);
    place_linears(linears, &stage);
    plan_.stages.emplace_back(std::move(stage));
    return true;
}

void Planner::place_ready_own_stages() {
    for (Node& n : nodes_) {
        if (n.done || row_local(n, op(n.op).kind) || is_linear(n) || !ready(n)) continue;
        place_own_stage(n.op);
        n.done = true;
    }
}

size_t Planner::n_waiting() const {
    return static_cast<size_t>(
        std::count_if(nodes_.begin(), nodes_.end(), [](const Node& n) { return !n.done; }));
}

void Planner::schedule() {
    while (const size_t before = n_waiting()) {
        std::vector<RowOp> ops = place_ready_rows();
        if (!place_ready_linears(&ops)) {
            if (!ops.empty()) plan_.stages.emplace_back(RowStage{std::move(ops)});
            place_ready_own_stages();
        }
        if (n_waiting() == before)
            throw ModelError("the program cannot be ordered: an operation waits for itself");
    }
}

void Planner::mark_done(int value) {
    for (Node& n : nodes_) {
        if (n.op == value) n.done = true;
    }
}

ValueRef Planner::new_value(int value) {
    ValueRef ref;
    ref.width = width_of(value);
    if (value == p_.logits) {
        ref.buffer = kLogitsBuffer;
        ref.ld = ref.width;
    } else {
        Buffer b;
        b.floats_per_row = align_up(ref.width, 16);
        b.first = b.last = stage_index();
        ref.buffer = static_cast<int>(plan_.buffers.size());
        plan_.buffers.push_back(b);
    }
    refs_[static_cast<size_t>(value)] = ref;
    made_[static_cast<size_t>(value)] = true;
    if (value == p_.hidden) {
        plan_.hidden = ref;
        plan_.hidden_stage = stage_index();
    }
    return ref;
}

ValueRef Planner::use(int value) {
    const ValueRef& ref = refs_[static_cast<size_t>(value)];
    if (ref.buffer >= 0) plan_.buffers[static_cast<size_t>(ref.buffer)].last = stage_index();
    return ref;
}

VectorId Planner::vector_of(int weight) {
    if (weight < 0) return -1;
    const auto it = std::find(plan_.vectors.begin(), plan_.vectors.end(), weight);
    if (it != plan_.vectors.end()) return static_cast<VectorId>(it - plan_.vectors.begin());
    plan_.vectors.push_back(weight);
    return static_cast<VectorId>(plan_.vectors.size() - 1);
}

size_t Planner::vector_size(VectorId id) const {
    return static_cast<size_t>(decl(plan_.vectors[static_cast<size_t>(id)]).elements());
}

VectorId Planner::sized_vector(const Op& o, std::string_view role, size_t n, bool* scalar) {
    const VectorId id = vector(o, role);
    if (scalar != nullptr) *scalar = false;
    if (id < 0) return id;
    const size_t size = vector_size(id);
    if (scalar != nullptr && size == 1 && n != 1) {
        *scalar = true;
    } else {
        expect(o, "the size of " + std::string(role), size, n);
    }
    return id;
}

size_t Planner::positive(const Op& o, std::string_view attr) const {
    const int64_t v = o.integer(attr);
    require(v > 0 && v < (int64_t{1} << 31), o,
            std::string(attr) + " is " + std::to_string(v) + ", expected 1 or more");
    return static_cast<size_t>(v);
}

ExecutionPlan make_plan(const Program& program, const std::vector<const FormatInfo*>& formats,
                        const PlanOptions& options) {
    return Planner(program, formats, options).make();
}

}  // namespace edgellm
