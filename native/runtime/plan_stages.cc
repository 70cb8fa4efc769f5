// SPDX-License-Identifier: MIT
// Attention, experts and recurrent state: a stage each.
#include <algorithm>
#include <bit>
#include <cmath>

#include "base/memory.h"
#include "runtime/planner.h"

namespace edgellm {
namespace {

// A recurrent state takes up every row, and an encoder's rows are each other's keys. A decoder's queries read
// a cache that an earlier stage has written: rows without logits need none.
bool needs_every_row(const Stage& stage) {
    if (const auto* attention = std::get_if<AttentionStage>(&stage)) return !attention->causal;
    return !std::holds_alternative<MoeStage>(stage);
}

// Powers of 2^(-max_bias / n), n the largest power of 2 up to n_heads; heads past n take those half-way
// between (arXiv 2108.12409).
std::vector<float> alibi_slopes(const Op& o, uint32_t n_heads) {
    const double max_bias = o.number("max_bias"), scale = o.number("bias_scale");
    require(max_bias >= 0, o, "max_bias is " + o.text("max_bias") + ", expected 0 or more");
    std::vector<float> slopes;
    const uint32_t n = std::bit_floor(n_heads);
    for (uint32_t h = 0; h < n_heads; ++h) {
        const double exponent = h < n ? (h + 1.0) / n : (2.0 * (h - n) + 1.0) / (2.0 * n);
        slopes.push_back(static_cast<float>(scale * std::exp2(-max_bias * exponent)));
    }
    return slopes;
}

}  // namespace

void Planner::place_own_stage(int i) {
    const auto stage = [&]() -> Stage {
        switch (op(i).kind) {
            case OpKind::kAttention:
            case OpKind::kAttentionShared:
                return attention_stage(i);
            case OpKind::kMoe:
                return moe_stage(i);
            case OpKind::kShortConv:
                return short_conv_stage(i);
            case OpKind::kGatedDelta:
                return gated_delta_stage(i);
            case OpKind::kSsm:
                return ssm_stage(i);
            default:
                fail(op(i), "has no stage of its own");
        }
    };
    Stage made = stage();
    if (needs_every_row(made)) plan_.select_after = stage_index();
    plan_.stages.push_back(std::move(made));
}

AttentionStage Planner::attention_stage(int i) {
    const Op& o = op(i);
    AttentionStage a;
    a.cache = cache_index(o);
    a.shape = plan_.cache_shapes[static_cast<size_t>(a.cache)];
    a.shape.n_heads = static_cast<uint32_t>(positive(o, "n_heads"));
    a.shape.scale = static_cast<float>(o.number("scale"));
    a.shape.softcap = static_cast<float>(o.number("softcap"));
    const int64_t window = o.integer("window");
    require(window >= 0 && window < (int64_t{1} << 31), o,
            "window is " + std::to_string(window) + ", expected 0 or more");
    a.shape.window = static_cast<uint32_t>(window);
    const uint32_t cache_window = plan_.cache_shapes[static_cast<size_t>(a.cache)].window;
    require(cache_window == 0 || (a.shape.window != 0 && a.shape.window <= cache_window), o,
            "its window is larger than its cache's, " + std::to_string(cache_window));
    a.causal = o.kind == OpKind::kAttentionShared || o.boolean("causal");
    a.sinks = sized_vector(o, "sinks", a.shape.n_heads, nullptr);
    a.bias = distance_bias(o, a);
    require(a.shape.n_heads % a.shape.n_kv_heads == 0, o,
            std::to_string(a.shape.n_heads) + " heads are not a multiple of " +
                std::to_string(a.shape.n_kv_heads) + " KV heads");
    a.q = use(o.ins[0]);
    expect(o, "the width of queries", a.q.width, size_t{a.shape.n_heads} * a.shape.key_dim);
    a.out = new_value(i);
    expect(o, "its width", a.out.width, size_t{a.shape.n_heads} * a.shape.value_dim);
    return a;
}

int Planner::distance_bias(const Op& o, const AttentionStage& a) {
    const bool alibi = o.kind == OpKind::kAttention && o.number("max_bias") != 0;
    if (!alibi && o.weight("distance_bias") < 0) return -1;
    DistanceBias bias;
    bias.n_heads = a.shape.n_heads;
    if (alibi) {
        require(o.weight("distance_bias") < 0, o, "has distance_bias and max_bias, expected one of them");
        require(a.causal || a.shape.window == 0, o, "has max_bias and a window, but is not causal");
        bias.slopes = alibi_slopes(o, a.shape.n_heads);
        return bias_index(std::move(bias));
    }
    const auto& shape = decl(o.weight("distance_bias")).shape;
    require(shape.size() == 2 && shape[1] == static_cast<int64_t>(bias.n_heads) && shape[0] % 4 == 0, o,
            "its bias is not (buckets, heads) with a multiple of 4 buckets");
    require(!a.causal && a.shape.window == 0, o, "a bias by distance needs causal=false and window=0");
    bias.n_buckets = static_cast<size_t>(shape[0]);
    bias.max_distance = positive(o, "max_distance");
    require(bias.max_distance > bias.n_buckets / 4, o,
            "max_distance is " + std::to_string(bias.max_distance) +
                ", expected more than a quarter of the buckets");
    bias.buckets = vector(o, "distance_bias");
    return bias_index(std::move(bias));
}

int Planner::bias_index(DistanceBias bias) {
    const auto known = std::find(plan_.biases.begin(), plan_.biases.end(), bias);
    const auto index = known - plan_.biases.begin();
    if (known == plan_.biases.end()) plan_.biases.push_back(std::move(bias));
    return static_cast<int>(index);
}

int Planner::cache_index(const Op& o) {
    const int64_t cache = o.integer("cache");
    if (cache == -1 && o.kind == OpKind::kAttention && !o.boolean("causal")) return encoder_cache(o);
    require(cache >= 0 && cache < static_cast<int64_t>(p_.caches.size()), o,
            "cache " + std::to_string(cache) + " is not declared");
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

MoeStage Planner::moe_stage(int i) {
    const Op& o = op(i);
    MoeStage m;
    m.routing = make_routing(o);
    m.routing.slot = moe_slots_.at(i);
    m.x = use(o.ins[0]);
    m.width = m.x.width;
    moe_matrices(o, &m);
    const size_t n_out = width_of(i), n_experts = m.routing.n_experts;
    m.gate_bias = sized_vector(o, "gate_bias", n_experts * m.n_ff, nullptr);
    m.up_bias = sized_vector(o, "up_bias", n_experts * m.n_ff, nullptr);
    m.down_bias = sized_vector(o, "down_bias", n_experts * n_out, nullptr);
    m.glu = glu_op(o);
    m.out = new_value(i);
    const size_t row = quant_row_bytes(align_up(m.width, 32)) + quant_row_bytes(align_up(m.n_ff, 32)) +
                       sizeof(float) * (align_up(m.width, 16) + align_up(m.n_ff, 16) + align_up(n_out, 16));
    plan_.moe_row_bytes = std::max(plan_.moe_row_bytes, row);
    return m;
}

void Planner::moe_matrices(const Op& o, MoeStage* m) {
    const size_t n_experts = m->routing.n_experts, n_out = static_cast<size_t>(o.width);
    const int down = o.weight("down");
    const auto& shape = decl(down).shape;
    require(shape.size() == 3 && shape[0] == static_cast<int64_t>(n_experts), o,
            decl(down).name + " is not (experts, rows, columns)");
    expect(o, "the number of rows of " + decl(down).name, static_cast<size_t>(shape[1]), n_out);
    m->n_ff = static_cast<size_t>(shape[2]);
    if (const int both = o.weight("gate_up"); both >= 0) {
        require(o.weight("gate") < 0 && o.weight("up") < 0, o,
                "has the weight gate_up, and gate or up as well");
        m->gate = moe_in_matrix(o, *m, both, 0, 2 * m->n_ff);
        m->up = moe_in_matrix(o, *m, both, m->n_ff, 2 * m->n_ff);
    } else {
        require(o.weight("up") >= 0, o, "needs the weight 'up'");
        if (const int gate = o.weight("gate"); gate >= 0) m->gate = moe_in_matrix(o, *m, gate, 0, m->n_ff);
        m->up = moe_in_matrix(o, *m, o.weight("up"), 0, m->n_ff);
    }
    m->down = new_matrix(o, down, 0, n_out, m->n_ff, n_experts, n_out);
}

MatrixId Planner::moe_in_matrix(const Op& o, const MoeStage& m, int weight, size_t first, size_t rows) {
    const auto& shape = decl(weight).shape;
    require(shape.size() == 3 && shape[0] == m.routing.n_experts, o,
            decl(weight).name + " is not (experts, rows, columns)");
    require(shape[1] == static_cast<int64_t>(rows) && shape[2] == static_cast<int64_t>(m.width), o,
            decl(weight).name + " does not fit the other experts");
    return new_matrix(o, weight, first, m.n_ff, m.width, m.routing.n_experts, rows);
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
               : gating == "sparse_mixer"   ? Gating::kSparseMixer
                                            : (fail(o, "unknown gating '" + gating + "'"), Gating::kSoftmax);
    r.jitter = static_cast<float>(o.number("jitter"));
    require(r.gating != Gating::kSparseMixer || (r.n_groups == 1 && o.weight("selection_bias") < 0), o,
            "chooses by sparse_mixer, but has expert groups or a selection bias");
    r.normalize = o.boolean("normalize");
    r.group_top2 = o.text("group_score") == "top2";
    r.factor = static_cast<float>(o.number("factor"));
    r.selection_bias = sized_vector(o, "selection_bias", r.n_experts, nullptr);
    r.expert_scale = sized_vector(o, "expert_scale", r.n_experts, nullptr);
    return r;
}

size_t Planner::state_offset(const Op& o, size_t n) const {
    const int64_t index = o.integer("state");
    require(index >= 0 && index < static_cast<int64_t>(p_.states.size()), o,
            "state " + std::to_string(index) + " is not declared");
    const auto size = static_cast<size_t>(p_.states[static_cast<size_t>(index)].size);
    expect(o, "the size of its state", size, n);
    return plan_.state_offsets[static_cast<size_t>(index)];
}

ShortConvStage Planner::short_conv_stage(int i) {
    const Op& o = op(i);
    const size_t width = width_of(i);
    ShortConvStage s;
    s.x = use(o.ins[0]);
    const auto& shape = decl(o.weight("weight")).shape;
    require(shape.size() == 2 && shape[0] == static_cast<int64_t>(width) && s.x.width == width, o,
            "the kernel is not (width, taps)");
    s.taps = static_cast<size_t>(shape[1]);
    s.weight = vector(o, "weight");
    s.bias = sized_vector(o, "bias", width, nullptr);
    const std::string& activation = o.text("activation");
    require(activation == "silu" || activation == "none", o, "unknown activation '" + activation + "'");
    s.silu = activation == "silu";
    s.state_offset = state_offset(o, (s.taps - 1) * width);
    s.out = new_value(i);
    return s;
}

GatedDeltaStage Planner::gated_delta_stage(int i) {
    const Op& o = op(i);
    const size_t width = width_of(i);
    GatedDeltaStage s;
    s.q = use(o.ins[0]);
    s.k = use(o.ins[1]);
    s.v = use(o.ins[2]);
    s.decay = use(o.ins[3]);
    s.beta = use(o.ins[4]);
    s.n_heads = positive(o, "n_heads");
    s.n_key_heads = positive(o, "n_key_heads");
    s.scale = static_cast<float>(o.number("scale"));
    s.tiled = o.boolean("tiled");
    require(s.n_heads % s.n_key_heads == 0 && s.q.width % s.n_key_heads == 0 && width % s.n_heads == 0 &&
                s.k.width == s.q.width && s.v.width == width && s.decay.width == s.n_heads &&
                s.beta.width == s.n_heads,
            o, "its inputs do not agree in heads");
    s.key_dim = s.q.width / s.n_key_heads;
    s.value_dim = width / s.n_heads;
    s.state_offset = state_offset(o, s.n_heads * s.key_dim * s.value_dim);
    s.out = new_value(i);
    return s;
}

SsmStage Planner::ssm_stage(int i) {
    const Op& o = op(i);
    const size_t width = width_of(i);
    SsmStage s;
    s.x = use(o.ins[0]);
    s.b = use(o.ins[1]);
    s.c = use(o.ins[2]);
    s.dt = use(o.ins[3]);
    s.n_heads = positive(o, "n_heads");
    s.n_groups = positive(o, "n_groups");
    s.d_state = positive(o, "d_state");
    require(width % s.n_heads == 0 && s.n_heads % s.n_groups == 0 && s.x.width == width &&
                s.b.width == s.n_groups * s.d_state && s.c.width == s.b.width && s.dt.width == s.n_heads,
            o, "its inputs do not agree in heads");
    s.head_dim = width / s.n_heads;
    s.a = sized_vector(o, "a", s.n_heads, nullptr);
    s.d = sized_vector(o, "d", s.n_heads, nullptr);
    s.dt_bias = sized_vector(o, "dt_bias", s.n_heads, nullptr);
    s.state_offset = state_offset(o, width * s.d_state);
    s.out = new_value(i);
    return s;
}

}  // namespace edgellm
