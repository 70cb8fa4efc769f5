// SPDX-License-Identifier: MIT
// Attention, experts and recurrent state: a stage each.
#include <algorithm>

#include "base/memory.h"
#include "runtime/planner.h"

namespace edgellm {

void Planner::place_heavy(const Node& n) {
    Stage stage;
    const Op& o = op(n.op);
    switch (o.kind) {
        case OpKind::kAttention:
        case OpKind::kAttentionShared:
            place_attend(n.op, &stage);
            break;
        case OpKind::kMoe:
            place_moe(n.op, &stage);
            break;
        default:
            place_state(n.op, &stage);
            break;
    }
    if (stage.kind != StageKind::kMoe) plan_.select_after = stage_index();
    plan_.stages.push_back(std::move(stage));
}

void Planner::place_attend(int i, Stage* stage) {
    const Op& o = op(i);
    stage->kind = StageKind::kAttend;
    AttendStage& a = stage->attend;
    a.cache = cache_index(o);
    a.shape = plan_.cache_shapes[static_cast<size_t>(a.cache)];
    a.shape.n_heads = static_cast<uint32_t>(positive(o, "n_heads"));
    a.shape.scale = static_cast<float>(o.number("scale"));
    a.shape.softcap = static_cast<float>(o.number("softcap"));
    const int64_t window = o.integer("window");
    require(window >= 0 && window < (int64_t{1} << 31), o, "window must not be negative");
    a.shape.window = static_cast<uint32_t>(window);
    const uint32_t cache_window = plan_.cache_shapes[static_cast<size_t>(a.cache)].window;
    require(cache_window == 0 || (a.shape.window != 0 && a.shape.window <= cache_window), o,
            "the cache keeps fewer tokens than the window sees");
    a.causal = o.kind == OpKind::kAttentionShared || o.boolean("causal");
    a.sinks = sized_vector(o, "sinks", a.shape.n_heads, nullptr);
    require(a.shape.n_heads % a.shape.n_kv_heads == 0, o, "query heads are not a multiple of key heads");
    a.q = use(o.ins[0]);
    require(a.q.width == size_t{a.shape.n_heads} * a.shape.key_dim, o, "queries do not fit the cache");
    a.out = new_value(i);
    require(a.out.width == size_t{a.shape.n_heads} * a.shape.value_dim, o,
            "its width is not heads times value size");
}

int Planner::cache_index(const Op& o) {
    const int64_t cache = o.integer("cache");
    if (cache == -1 && o.kind == OpKind::kAttention && !o.boolean("causal")) return encoder_cache(o);
    require(cache >= 0 && cache < static_cast<int64_t>(p_.caches.size()), o, "no such cache");
    return static_cast<int>(cache);
}

int Planner::encoder_cache(const Op& o) {
    const size_t n_heads = positive(o, "n_heads");
    const size_t q = width_of(o.ins[0]), k = width_of(o.ins[1]), v = width_of(o.ins[2]);
    const size_t key_dim = q / n_heads;
    require(q % n_heads == 0 && k % key_dim == 0 && v % (k / key_dim) == 0, o,
            "queries, keys and values do not agree in heads");
    AttentionShape shape{};
    shape.key_dim = static_cast<uint32_t>(key_dim);
    shape.n_kv_heads = static_cast<uint32_t>(k / key_dim);
    shape.value_dim = static_cast<uint32_t>(v / (k / key_dim));
    shape.kv_type = plan_.options.kv_type;
    for (size_t i = p_.caches.size(); i < plan_.cache_shapes.size(); ++i) {
        const AttentionShape& s = plan_.cache_shapes[i];
        if (s.key_dim == shape.key_dim && s.n_kv_heads == shape.n_kv_heads &&
            s.value_dim == shape.value_dim) {
            return static_cast<int>(i);
        }
    }
    plan_.cache_shapes.push_back(shape);
    return static_cast<int>(plan_.cache_shapes.size() - 1);
}

void Planner::place_moe(int i, Stage* stage) {
    const Op& o = op(i);
    stage->kind = StageKind::kMoe;
    MoeStage& m = stage->moe;
    m.routing = make_routing(o);
    m.routing.slot = moe_slots_.at(i);
    m.x = use(o.ins[0]);
    m.width = m.x.width;
    const auto shape3 = [&](int w) {
        const auto& s = decl(w).shape;
        require(s.size() == 3 && s[0] == m.routing.n_experts, o,
                decl(w).name + " is not (experts, rows, columns)");
        return s;
    };
    const int down = o.weight("down");
    const auto ds = shape3(down);
    m.n_ff = static_cast<size_t>(ds[2]);
    require(ds[1] == static_cast<int64_t>(width_of(i)), o, "down does not make its width");
    const auto in_matrix = [&](int w, size_t first, size_t rows) {
        const auto s = shape3(w);
        require(s[1] == static_cast<int64_t>(rows) && s[2] == static_cast<int64_t>(m.width), o,
                decl(w).name + " does not fit the other experts");
        return new_matrix(o, w, first, m.n_ff, m.width, m.routing.n_experts, rows);
    };
    if (const int w = o.weight("gate_up"); w >= 0) {
        require(o.weight("gate") < 0 && o.weight("up") < 0, o, "has gate_up and gate or up");
        m.gate = in_matrix(w, 0, 2 * m.n_ff);
        m.up = in_matrix(w, m.n_ff, 2 * m.n_ff);
    } else {
        require(o.weight("up") >= 0, o, "needs the weight 'up'");
        if (o.weight("gate") >= 0) m.gate = in_matrix(o.weight("gate"), 0, m.n_ff);
        m.up = in_matrix(o.weight("up"), 0, m.n_ff);
    }
    m.down = new_matrix(o, down, 0, width_of(i), m.n_ff, m.routing.n_experts, width_of(i));
    m.gate_bias = sized_vector(o, "gate_bias", m.routing.n_experts * m.n_ff, nullptr);
    m.up_bias = sized_vector(o, "up_bias", m.routing.n_experts * m.n_ff, nullptr);
    m.down_bias = sized_vector(o, "down_bias", m.routing.n_experts * width_of(i), nullptr);
    m.fn = parse_activation(o, o.text("activation"));
    m.limit = static_cast<float>(o.number("limit"));
    m.alpha = static_cast<float>(o.number("alpha"));
    m.out = new_value(i);
    const size_t row =
        quant_row_bytes(align_up(m.width, 32)) + quant_row_bytes(align_up(m.n_ff, 32)) +
        sizeof(float) * (align_up(m.width, 16) + align_up(m.n_ff, 16) + align_up(m.out.width, 16));
    plan_.moe_row_bytes = std::max(plan_.moe_row_bytes, row);
}

Routing Planner::make_routing(const Op& o) {
    Routing r;
    r.n_experts = static_cast<uint32_t>(width_of(o.ins[1]));
    r.n_used = static_cast<uint32_t>(positive(o, "n_used"));
    r.n_groups = static_cast<uint32_t>(positive(o, "n_groups"));
    r.n_groups_used = static_cast<uint32_t>(positive(o, "n_groups_used"));
    require(r.n_used <= r.n_experts && r.n_experts % r.n_groups == 0 && r.n_groups_used <= r.n_groups &&
                r.n_used <= r.n_experts / r.n_groups * r.n_groups_used,
            o, "more experts are used than there are");
    const std::string& gating = o.text("gating");
    r.gating = gating == "softmax"          ? Gating::kSoftmax
               : gating == "sigmoid"        ? Gating::kSigmoid
               : gating == "softmax_chosen" ? Gating::kSoftmaxChosen
                                            : (fail(o, "unknown gating '" + gating + "'"), Gating::kSoftmax);
    r.normalize = o.boolean("normalize");
    r.group_top2 = o.text("group_score") == "top2";
    r.factor = static_cast<float>(o.number("factor"));
    r.selection_bias = sized_vector(o, "selection_bias", r.n_experts, nullptr);
    return r;
}

void Planner::place_state(int i, Stage* stage) {
    const Op& o = op(i);
    stage->kind = StageKind::kState;
    StateStage& s = stage->state;
    s.kind = o.kind;
    const int64_t index = o.integer("state");
    require(index >= 0 && index < static_cast<int64_t>(p_.states.size()), o, "no such state");
    s.state_offset = plan_.state_offsets[static_cast<size_t>(index)];
    for (int in : o.ins) s.ins.push_back(use(in));
    size_t floats = 0;
    const size_t width = width_of(i);
    if (o.kind == OpKind::kShortConv) {
        const auto& shape = decl(o.weight("weight")).shape;
        require(shape.size() == 2 && shape[0] == static_cast<int64_t>(width) && s.ins[0].width == width, o,
                "the kernel is not (width, taps)");
        s.taps = static_cast<size_t>(shape[1]);
        s.weight = vector(o, "weight");
        s.bias = sized_vector(o, "bias", width, nullptr);
        require(o.text("activation") == "silu" || o.text("activation") == "none", o, "unknown activation");
        s.silu = o.text("activation") == "silu";
        floats = (s.taps - 1) * width;
    } else if (o.kind == OpKind::kGatedDelta) {
        s.n_heads = positive(o, "n_heads");
        s.n_key_heads = positive(o, "n_key_heads");
        s.scale = static_cast<float>(o.number("scale"));
        s.tiled = o.boolean("tiled");
        require(s.n_heads % s.n_key_heads == 0 && s.ins[0].width % s.n_key_heads == 0 &&
                    width % s.n_heads == 0 && s.ins[1].width == s.ins[0].width && s.ins[2].width == width &&
                    s.ins[3].width == s.n_heads && s.ins[4].width == s.n_heads,
                o, "its inputs do not agree in heads");
        s.key_dim = s.ins[0].width / s.n_key_heads;
        s.value_dim = width / s.n_heads;
        floats = s.n_heads * s.key_dim * s.value_dim;
    } else {
        s.n_heads = positive(o, "n_heads");
        s.n_key_heads = positive(o, "n_groups");
        s.key_dim = positive(o, "d_state");
        require(width % s.n_heads == 0 && s.n_heads % s.n_key_heads == 0 && s.ins[0].width == width &&
                    s.ins[1].width == s.n_key_heads * s.key_dim && s.ins[2].width == s.ins[1].width &&
                    s.ins[3].width == s.n_heads,
                o, "its inputs do not agree in heads");
        s.value_dim = width / s.n_heads;
        s.a = sized_vector(o, "a", s.n_heads, nullptr);
        s.d = sized_vector(o, "d", s.n_heads, nullptr);
        s.dt_bias = sized_vector(o, "dt_bias", s.n_heads, nullptr);
        floats = width * s.key_dim;
    }
    require(static_cast<size_t>(p_.states[static_cast<size_t>(index)].size) == floats, o,
            "its state has " + std::to_string(p_.states[static_cast<size_t>(index)].size) +
                " values, expected " + std::to_string(floats));
    s.out = new_value(i);
}

}  // namespace edgellm
