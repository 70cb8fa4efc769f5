// SPDX-License-Identifier: MIT
#include "runtime/plan.h"

#include <algorithm>
#include <array>
#include <functional>

#include "base/error.h"
#include "base/memory.h"
#include "runtime/place.h"

namespace edgellm {
namespace {

[[noreturn]] void fail(const Op& op, const std::string& what) {
    throw ModelError("op " + op.name + ": " + what);
}

void require(bool ok, const Op& op, const std::string& what) {
    if (!ok) fail(op, what);
}

Activation parse_activation(const Op& op, const std::string& name) {
    static constexpr std::array<const char*, 11> kNames = {"silu",     "gelu",  "gelu_tanh", "gelu_quick",
                                                           "relu",     "relu2", "sigmoid",   "tanh",
                                                           "softplus", "exp",   "swiglu_oai"};
    for (size_t i = 0; i < kNames.size(); ++i) {
        if (name == kNames[i]) return static_cast<Activation>(i);
    }
    fail(op, "unknown activation '" + name + "'");
}

// Work the scheduler places: an op, or a part of one.
enum class Part : uint8_t { kWhole, kKvWrite, kAttend, kRoute, kExperts };

struct Node {
    int op;
    Part part;
    bool done = false;
};

class Planner {
  public:
    Planner(const Program& program, const std::vector<uint32_t>& types, const PlanOptions& options)
        : p_(program), types_(types), kernels_(linear_kernels(options.isa)) {
        plan_.options = options;
    }

    Plan make() {
        if (types_.size() != p_.weights.size())
            throw ModelError("the tensors do not match the program's weights");
        prepare_state();
        count_uses();
        make_nodes();
        schedule();
        place_memory(&plan_);
        return std::move(plan_);
    }

  private:
    // ---- what the program says ----

    const Op& op(int i) const { return p_.ops[static_cast<size_t>(i)]; }

    const WeightDecl& decl(int weight) const { return p_.weights[static_cast<size_t>(weight)]; }

    size_t width_of(int value) const { return static_cast<size_t>(op(value).width); }

    void prepare_state() {
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

    void count_uses() {
        uses_.resize(p_.ops.size());
        for (size_t i = 0; i < p_.ops.size(); ++i) {
            for (int in : p_.ops[i].ins) uses_[static_cast<size_t>(in)].push_back(static_cast<int>(i));
        }
        refs_.resize(p_.ops.size());
    }

    bool is_output(int value) const { return value == p_.hidden || value == p_.logits; }

    bool is_column_slice(const Op& o) const { return o.kind == OpKind::kSlice && o.integer("groups") == 1; }

    // A linear that is only cut into column ranges is several linears over row ranges of its weight: nothing
    // is copied, and fused checkpoints (one QKV or gate/up tensor) run like separate ones.
    bool splits_into_slices(int i) const {
        if (op(i).kind != OpKind::kLinear || is_output(i) || uses_[static_cast<size_t>(i)].empty())
            return false;
        for (int use : uses_[static_cast<size_t>(i)]) {
            if (!is_column_slice(op(use))) return false;
        }
        return true;
    }

    void make_nodes() {
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

    // The linear that computes value i by rows of its weight, or -1.
    int linear_source(int i) const {
        if (op(i).kind == OpKind::kLinear) return i;
        if (is_column_slice(op(i)) && splits_into_slices(op(i).ins[0])) return op(i).ins[0];
        return -1;
    }

    bool is_linear(const Node& n) const {
        return linear_source(n.op) >= 0 || op(n.op).kind == OpKind::kLinearGroups;
    }

    bool ready(const Node& n) const {
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

    static bool row_local(const Node& n, OpKind kind) {
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

    // ---- stages, level by level ----

    int stage_index() const { return static_cast<int>(plan_.stages.size()); }

    void schedule() {
        size_t left = nodes_.size();
        while (left > 0) {
            Stage stage;
            stage.kind = StageKind::kRows;
            size_t placed = 0;
            // All row-local work that is ready, and what becomes ready by it.
            for (bool more = true; more;) {
                more = false;
                for (Node& n : nodes_) {
                    if (n.done || is_linear(n) || !row_local(n, op(n.op).kind) || !ready(n)) continue;
                    place_row(n, &stage);
                    n.done = true;
                    ++placed;
                    more = true;
                }
            }
            std::vector<Node*> linears;
            for (Node& n : nodes_) {
                if (!n.done && is_linear(n) && ready(n)) linears.push_back(&n);
            }
            if (!linears.empty()) {
                stage.kind = StageKind::kLinear;
                placed += place_linears(linears, &stage);
            }
            if (!stage.rows.empty() || !stage.linears.empty()) plan_.stages.push_back(std::move(stage));
            if (linears.empty()) {
                for (Node& n : nodes_) {
                    if (n.done || row_local(n, op(n.op).kind) || is_linear(n) || !ready(n)) continue;
                    place_heavy(n);
                    n.done = true;
                    ++placed;
                }
            }
            if (placed == 0) throw ModelError("the program cannot be ordered: an operation waits for itself");
            left = static_cast<size_t>(
                std::count_if(nodes_.begin(), nodes_.end(), [](const Node& n) { return !n.done; }));
        }
    }

    // ---- values ----

    ValueRef new_value(int value) {
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

    // The value for reading in the stage under construction.
    ValueRef use(int value) {
        const ValueRef& ref = refs_[static_cast<size_t>(value)];
        if (ref.buffer >= 0) plan_.buffers[static_cast<size_t>(ref.buffer)].last = stage_index();
        return ref;
    }

    VectorId vector(const Op& o, std::string_view role) { return vector_of(o.weight(role)); }

    VectorId vector_of(int weight) {
        if (weight < 0) return -1;
        const auto it = std::find(plan_.vectors.begin(), plan_.vectors.end(), weight);
        if (it != plan_.vectors.end()) return static_cast<VectorId>(it - plan_.vectors.begin());
        plan_.vectors.push_back(weight);
        return static_cast<VectorId>(plan_.vectors.size() - 1);
    }

    size_t vector_size(VectorId id) const {
        return static_cast<size_t>(decl(plan_.vectors[static_cast<size_t>(id)]).elements());
    }

    // An optional vector of `n` values, or of one where `scalar` is given.
    VectorId sized_vector(const Op& o, std::string_view role, size_t n, bool* scalar) {
        const VectorId id = vector(o, role);
        if (scalar != nullptr) *scalar = false;
        if (id < 0) return id;
        const size_t size = vector_size(id);
        if (scalar != nullptr && size == 1 && n != 1) {
            *scalar = true;
        } else {
            require(size == n, o,
                    std::string(role) + " has " + std::to_string(size) + " values, expected " +
                        std::to_string(n));
        }
        return id;
    }

    size_t positive(const Op& o, std::string_view attr) const {
        const int64_t v = o.integer(attr);
        require(v > 0 && v < (int64_t{1} << 31), o,
                std::string(attr) + " is " + std::to_string(v) + ", expected 1 or more");
        return static_cast<size_t>(v);
    }

    // ---- row-local operations ----

    void place_row(const Node& n, Stage* stage) {
        const Op& o = op(n.op);
        if (n.part == Part::kKvWrite) {
            place_kv_write(n.op, stage);
            written_[static_cast<size_t>(n.op)] = true;
            return;
        }
        if (n.part == Part::kRoute) {
            place_route(n.op, stage);
            written_[static_cast<size_t>(n.op)] = true;
            return;
        }
        if (is_column_slice(o)) {  // a view of its input
            const size_t start = static_cast<size_t>(o.integer("start")), size = positive(o, "size");
            require(o.integer("start") >= 0 && start + size <= width_of(o.ins[0]) && size == width_of(n.op),
                    o, "the slice leaves its input");
            if (is_output(n.op)) fail(o, "an output cannot be a slice");
            ValueRef ref = refs_[static_cast<size_t>(o.ins[0])];
            ref.column += start;
            ref.width = size;
            refs_[static_cast<size_t>(n.op)] = ref;
            made_[static_cast<size_t>(n.op)] = true;
            return;
        }
        RowOp r{};
        const size_t width = width_of(n.op);
        if (!o.ins.empty()) r.a = use(o.ins[0]);
        if (o.ins.size() > 1) r.b = use(o.ins[1]);
        switch (o.kind) {
            case OpKind::kEmbed:
                row_embed(o, width, &r);
                break;
            case OpKind::kNorm:
                row_norm(o, width, &r);
                break;
            case OpKind::kAffine:
                r.kind = RowOpKind::kAffine;
                r.factor = static_cast<float>(o.number("factor"));
                r.weight = sized_vector(o, "weight", width, &r.weight_scalar);
                r.bias = sized_vector(o, "bias", width, &r.bias_scalar);
                require(r.a.width == width, o, "width differs from its input's");
                break;
            case OpKind::kRope:
                row_rope(o, width, &r);
                break;
            case OpKind::kGlu:
                r.kind = RowOpKind::kGlu;
                r.fn = parse_activation(o, o.text("activation"));
                r.limit = static_cast<float>(o.number("limit"));
                r.alpha = static_cast<float>(o.number("alpha"));
                require(r.a.width == width && r.b.width == width, o, "gate and up differ in width");
                break;
            case OpKind::kActivation:
                r.kind = RowOpKind::kActivation;
                r.fn = parse_activation(o, o.text("fn"));
                require(r.a.width == width && r.fn != Activation::kSwigluOai, o,
                        "not an activation of its input's width");
                break;
            case OpKind::kAdd:
                r.kind = RowOpKind::kAdd;
                require(r.a.width == width && r.b.width == width, o, "a and b differ in width");
                break;
            case OpKind::kMul:
                r.kind = RowOpKind::kMul;
                require(r.a.width == width && width % r.b.width == 0, o, "b's width does not divide a's");
                break;
            case OpKind::kSoftcap:
                r.kind = RowOpKind::kSoftcap;
                r.cap = static_cast<float>(o.number("cap"));
                require(r.a.width == width && r.cap > 0, o, "cap must be positive");
                break;
            case OpKind::kSlice:
                r.kind = RowOpKind::kSlice;
                r.groups = positive(o, "groups");
                r.size = positive(o, "size");
                r.start = static_cast<size_t>(o.integer("start"));
                require(o.integer("start") >= 0 && r.a.width % r.groups == 0 &&
                            r.start + r.size <= r.a.width / r.groups && width == r.groups * r.size,
                        o, "the slice leaves its groups");
                break;
            case OpKind::kConcat:
                r.kind = RowOpKind::kConcat;
                r.groups = positive(o, "groups");
                r.repeat_a = o.boolean("repeat_a");
                r.repeat_b = o.boolean("repeat_b");
                require((r.repeat_a || r.a.width % r.groups == 0) &&
                            (r.repeat_b || r.b.width % r.groups == 0) &&
                            width == (r.repeat_a ? r.a.width * r.groups : r.a.width) +
                                         (r.repeat_b ? r.b.width * r.groups : r.b.width),
                        o, "the inputs' groups do not make its width");
                break;
            case OpKind::kRepeat:
                r.kind = RowOpKind::kRepeat;
                r.groups = positive(o, "groups");
                r.times = positive(o, "times");
                r.interleave = o.boolean("interleave");
                require(r.a.width % r.groups == 0 && r.a.width * r.times == width, o,
                        "groups times times is not its width");
                break;
            default:
                fail(o, "is not a row operation");
        }
        r.out = new_value(n.op);
        stage->rows.push_back(r);
    }

    void row_embed(const Op& o, size_t width, RowOp* r) {
        r->kind = RowOpKind::kEmbed;
        const std::string& source = o.text("source");
        r->source = source == "token"      ? EmbedSource::kToken
                    : source == "position" ? EmbedSource::kPosition
                    : source == "first" ? EmbedSource::kFirst
                                        : (fail(o, "unknown source '" + source + "'"), EmbedSource::kToken);
        const int w = o.weight("weight");
        require(decl(w).shape.size() == 2 && decl(w).shape[1] == static_cast<int64_t>(width), o,
                "the embedding's rows are not of its width");
        if (r->source == EmbedSource::kToken) {
            require(decl(w).shape[0] >= p_.n_vocab, o, "the embedding has fewer rows than the vocabulary");
        }
        const FormatInfo* format = find_format(types_[static_cast<size_t>(w)]);
        require(format != nullptr && width % format->block_size == 0, o,
                "the embedding's format does not fit its width");
        r->index = static_cast<int>(plan_.embeddings.size());
        plan_.embeddings.push_back(w);
    }

    void row_norm(const Op& o, size_t width, RowOp* r) {
        r->kind = RowOpKind::kNorm;
        const std::string& kind = o.text("kind");
        r->norm = kind == "rms"     ? NormKind::kRms
                  : kind == "layer" ? NormKind::kLayer
                  : kind == "l2"    ? NormKind::kL2
                                    : (fail(o, "unknown norm '" + kind + "'"), NormKind::kRms);
        r->eps = static_cast<float>(o.number("eps"));
        r->groups = positive(o, "groups");
        require(r->a.width == width && width % r->groups == 0, o, "groups do not divide its width");
        r->weight = vector(o, "weight");
        r->bias = vector(o, "bias");
        for (VectorId id : {r->weight, r->bias}) {
            if (id < 0) continue;
            const size_t n = vector_size(id);
            require(n == width || n == width / r->groups, o, "a weight has " + std::to_string(n) + " values");
            r->per_row = n == width && r->groups > 1;
        }
        if (r->weight >= 0 && r->bias >= 0) {
            require(vector_size(r->weight) == vector_size(r->bias), o, "weight and bias differ in size");
        }
    }

    void row_rope(const Op& o, size_t width, RowOp* r) {
        r->kind = RowOpKind::kRope;
        r->groups = positive(o, "groups");
        const std::string& kind = o.text("kind");
        require(kind == "neox" || kind == "interleaved", o, "unknown kind '" + kind + "'");
        r->rope = kind == "neox" ? RopeKind::kNeox : RopeKind::kInterleaved;
        const int table = p_.table_index(o.text("table"));
        const size_t n_pairs = p_.tables[static_cast<size_t>(table)].inv_freq.size();
        require(r->a.width == width && width % r->groups == 0 && 2 * n_pairs <= width / r->groups, o,
                "the table is longer than a head");
        const VectorId factors = vector(o, "factors");
        if (factors >= 0) require(vector_size(factors) == n_pairs, o, "factors do not match the table");
        for (size_t i = 0; i < plan_.angles.size(); ++i) {
            if (plan_.angles[i].table == table && plan_.angles[i].factors == factors)
                r->index = static_cast<int>(i);
        }
        if (r->index < 0) {
            r->index = static_cast<int>(plan_.angles.size());
            plan_.angles.push_back({table, factors, plan_.angle_floats_per_row, n_pairs});
            plan_.angle_floats_per_row += align_up(2 * n_pairs, 16);
        }
    }

    // The cache of an attention op. An encoder's (cache=-1) keeps nothing between steps: all its layers use
    // one after another the same blocks, which the step's own tokens fill.
    int cache_index(const Op& o) {
        const int64_t cache = o.integer("cache");
        if (cache == -1 && o.kind == OpKind::kAttention && !o.boolean("causal")) return encoder_cache(o);
        require(cache >= 0 && cache < static_cast<int64_t>(p_.caches.size()), o, "no such cache");
        return static_cast<int>(cache);
    }

    int encoder_cache(const Op& o) {
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

    void place_kv_write(int i, Stage* stage) {
        const Op& o = op(i);
        const int cache = cache_index(o);
        const AttentionShape& c = plan_.cache_shapes[static_cast<size_t>(cache)];
        require(width_of(o.ins[1]) == size_t{c.n_kv_heads} * c.key_dim &&
                    width_of(o.ins[2]) == size_t{c.n_kv_heads} * c.value_dim,
                o, "keys or values do not fit cache " + std::to_string(cache));
        RowOp r{};
        r.kind = RowOpKind::kKvWrite;
        r.a = use(o.ins[1]);
        r.b = use(o.ins[2]);
        r.index = cache;
        stage->rows.push_back(r);
    }

    Routing make_routing(const Op& o) {
        Routing r;
        r.n_experts = static_cast<uint32_t>(width_of(o.ins[1]));
        r.n_used = static_cast<uint32_t>(positive(o, "n_used"));
        r.n_groups = static_cast<uint32_t>(positive(o, "n_groups"));
        r.n_groups_used = static_cast<uint32_t>(positive(o, "n_groups_used"));
        require(r.n_used <= r.n_experts && r.n_experts % r.n_groups == 0 && r.n_groups_used <= r.n_groups &&
                    r.n_used <= r.n_experts / r.n_groups * r.n_groups_used,
                o, "more experts are used than there are");
        const std::string& gating = o.text("gating");
        r.gating = gating == "softmax"   ? Gating::kSoftmax
                   : gating == "sigmoid" ? Gating::kSigmoid
                   : gating == "softmax_chosen"
                       ? Gating::kSoftmaxChosen
                       : (fail(o, "unknown gating '" + gating + "'"), Gating::kSoftmax);
        r.normalize = o.boolean("normalize");
        r.group_top2 = o.text("group_score") == "top2";
        r.factor = static_cast<float>(o.number("factor"));
        r.selection_bias = sized_vector(o, "selection_bias", r.n_experts, nullptr);
        return r;
    }

    void place_route(int i, Stage* stage) {
        RowOp r{};
        r.kind = RowOpKind::kRoute;
        r.routing = make_routing(op(i));
        r.routing.slot = plan_.n_moe++;
        moe_slots_[i] = r.routing.slot;
        plan_.max_used = std::max<size_t>(plan_.max_used, r.routing.n_used);
        r.a = use(op(i).ins[1]);
        stage->rows.push_back(r);
    }

    // ---- linears ----

    int new_matrix(const Op& o, int weight, size_t row_first, size_t n_out, size_t n_in, size_t n_experts = 1,
                   size_t expert_rows = 0) {
        MatrixUse m;
        m.weight = weight;
        m.row_first = row_first;
        m.n_experts = n_experts;
        m.expert_rows = expert_rows == 0 ? n_out : expert_rows;
        const uint32_t type = types_[static_cast<size_t>(weight)];
        const FormatInfo* format = find_format(type);
        if (format == nullptr || !kernels_.describe(static_cast<GGMLType>(type), n_out, n_in, &m.packed)) {
            fail(o, "the format of " + decl(weight).name + " cannot hold rows of " + std::to_string(n_in) +
                        " values");
        }
        plan_.matrices.push_back(m);
        return static_cast<int>(plan_.matrices.size() - 1);
    }

    MatrixUse& matrix(int i) { return plan_.matrices[static_cast<size_t>(i)]; }

    // Follows the element-wise operations that alone consume `value` and whose other operand is there;
    // returns the last value.
    int absorb_epilogue(int value, const std::vector<int>& same_stage, std::vector<Epilogue>* epilogue) {
        while (!is_output(value) && uses_[static_cast<size_t>(value)].size() == 1) {
            const int next = uses_[static_cast<size_t>(value)][0];
            const Op& o = op(next);
            const size_t width = width_of(next);
            if (made_[static_cast<size_t>(next)] || width != width_of(value)) break;
            Epilogue e{};
            if (o.kind == OpKind::kAffine) {
                e.kind = EpilogueKind::kAffine;
                e.factor = static_cast<float>(o.number("factor"));
                e.weight = sized_vector(o, "weight", width, &e.weight_scalar);
                e.bias = sized_vector(o, "bias", width, &e.bias_scalar);
            } else if (o.kind == OpKind::kActivation) {
                e.kind = EpilogueKind::kActivation;
                e.fn = parse_activation(o, o.text("fn"));
                require(e.fn != Activation::kSwigluOai, o, "not an activation");
            } else if (o.kind == OpKind::kSoftcap) {
                e.kind = EpilogueKind::kSoftcap;
                e.cap = static_cast<float>(o.number("cap"));
                require(e.cap > 0, o, "cap must be positive");
            } else if (o.kind == OpKind::kAdd || o.kind == OpKind::kMul) {
                const int other = o.ins[0] == value ? o.ins[1] : o.ins[0];
                const bool here = std::find(same_stage.begin(), same_stage.end(), other) != same_stage.end();
                if (other == value || !made_[static_cast<size_t>(other)] || here || width_of(other) != width)
                    break;
                e.kind = o.kind == OpKind::kAdd ? EpilogueKind::kAdd : EpilogueKind::kMul;
                e.operand = use(other);
            } else {
                break;
            }
            epilogue->push_back(e);
            mark_done(next);
            value = next;
        }
        return value;
    }

    void mark_done(int value) {
        for (Node& n : nodes_) {
            if (n.op == value) n.done = true;
        }
    }

    // Rows [first, first + n) of the weight that compute `value`.
    std::pair<size_t, size_t> weight_rows(int value) const {
        if (op(value).kind == OpKind::kLinear) return {0, width_of(value)};
        const Op& slice = op(value);
        const int64_t start = slice.integer("start"), size = slice.integer("size");
        require(start >= 0 && size > 0 && static_cast<size_t>(start + size) <= width_of(slice.ins[0]) &&
                    static_cast<size_t>(size) == width_of(value),
                slice, "the slice leaves its input");
        return {static_cast<size_t>(start), static_cast<size_t>(size)};
    }

    size_t place_linears(const std::vector<Node*>& ready_linears, Stage* stage) {
        std::vector<int> made_here;  // values of this stage: no epilogue may read them
        size_t placed = 0;
        for (Node* n : ready_linears) {
            if (n->done) continue;
            n->done = true;
            ++placed;
            if (op(n->op).kind == OpKind::kLinearGroups) {
                place_groups(n->op, stage);
                made_here.push_back(n->op);
                continue;
            }
            const Op& linear = op(linear_source(n->op));
            LinearTask task;
            task.in = use(linear.ins[0]);
            task.matrix = make_linear_matrix(n->op, linear);
            task.bias = sized_vector(linear, "bias", static_cast<size_t>(linear.width), nullptr);
            int value = fuse_glu(*n, ready_linears, &task);
            value = absorb_epilogue(value, made_here, &task.epilogue);
            task.out = new_value(value);
            made_here.push_back(value);
            stage->linears.push_back(std::move(task));
        }
        // The integer kernels read quantized rows: the prologue ends by making them, once per distinct input.
        for (LinearTask& task : stage->linears) {
            if (matrix(task.matrix).packed.input == InputKind::kInt8) task.quant = quant_slot(task.in, stage);
            if (task.up >= 0 && matrix(task.up).packed.input == InputKind::kInt8) quant_slot(task.in, stage);
        }
        return placed;
    }

    // Each group is a linear of its own, from a column range of the input to one of the output.
    void place_groups(int i, Stage* stage) {
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
            stage->linears.push_back(std::move(task));
        }
    }

    int make_linear_matrix(int value, const Op& linear) {
        const int weight = linear.weight("weight");
        const auto& shape = decl(weight).shape;
        const size_t n_in = width_of(linear.ins[0]);
        require(shape.size() == 2 && shape[0] == linear.width && shape[1] == static_cast<int64_t>(n_in),
                linear,
                decl(weight).name + " does not map " + std::to_string(n_in) + " to " +
                    std::to_string(linear.width) + " values");
        const auto [first, n_out] = weight_rows(value);
        return new_matrix(linear, weight, first, n_out, n_in);
    }

    // If `n` is one half of a gate/up pair whose other half is ready too, both become one task. Returns the
    // value it makes.
    int fuse_glu(const Node& n, const std::vector<Node*>& ready_linears, LinearTask* task) {
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
            const int other_matrix = make_linear_matrix(other, linear);
            const Op& mine = op(linear_source(n.op));
            if (mine.ins[0] != linear.ins[0] ||
                matrix(other_matrix).packed.input != matrix(task->matrix).packed.input) {
                plan_.matrices.pop_back();
                return n.op;
            }
            m->done = true;
            const VectorId other_bias =
                sized_vector(linear, "bias", static_cast<size_t>(linear.width), nullptr);
            task->up = other_matrix;
            task->up_bias = other_bias;
            if (!is_gate) {
                std::swap(task->matrix, task->up);
                std::swap(task->bias, task->up_bias);
            }
            const Op& o = op(glu);
            task->glu = parse_activation(o, o.text("activation"));
            task->limit = static_cast<float>(o.number("limit"));
            task->alpha = static_cast<float>(o.number("alpha"));
            mark_done(glu);
            return glu;
        }
        return n.op;
    }

    int quant_slot(const ValueRef& value, Stage* stage) {
        for (size_t i = 0; i < stage->quants.size(); ++i) {
            const ValueRef& v = stage->quants[i].value;
            if (v.buffer == value.buffer && v.column == value.column && v.width == value.width)
                return static_cast<int>(i);
        }
        QuantSlot slot;
        slot.value = value;
        slot.n_in = value.width;
        stage->quants.push_back(slot);
        RowOp r{};
        r.kind = RowOpKind::kQuantize;
        r.a = value;
        r.index = static_cast<int>(stage->quants.size() - 1);
        stage->rows.push_back(r);
        return r.index;
    }

    // ---- attention, experts, recurrent state ----

    void place_heavy(const Node& n) {
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

    void place_attend(int i, Stage* stage) {
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

    void place_moe(int i, Stage* stage) {
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

    void place_state(int i, Stage* stage) {
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
            require(shape.size() == 2 && shape[0] == static_cast<int64_t>(width) && s.ins[0].width == width,
                    o, "the kernel is not (width, taps)");
            s.taps = static_cast<size_t>(shape[1]);
            s.weight = vector(o, "weight");
            s.bias = sized_vector(o, "bias", width, nullptr);
            require(o.text("activation") == "silu" || o.text("activation") == "none", o,
                    "unknown activation");
            s.silu = o.text("activation") == "silu";
            floats = (s.taps - 1) * width;
        } else if (o.kind == OpKind::kGatedDelta) {
            s.n_heads = positive(o, "n_heads");
            s.n_key_heads = positive(o, "n_key_heads");
            s.scale = static_cast<float>(o.number("scale"));
            s.tiled = o.boolean("tiled");
            require(s.n_heads % s.n_key_heads == 0 && s.ins[0].width % s.n_key_heads == 0 &&
                        width % s.n_heads == 0 && s.ins[1].width == s.ins[0].width &&
                        s.ins[2].width == width && s.ins[3].width == s.n_heads && s.ins[4].width == s.n_heads,
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

    const Program& p_;
    const std::vector<uint32_t>& types_;
    const LinearKernels& kernels_;
    Plan plan_;
    std::vector<std::vector<int>> uses_;
    std::vector<ValueRef> refs_;
    std::vector<Node> nodes_;
    std::vector<bool> made_;
    std::vector<bool> written_;
    std::map<int, int> moe_slots_;
};

}  // namespace

Plan make_plan(const Program& program, const std::vector<uint32_t>& types, const PlanOptions& options) {
    return Planner(program, types, options).make();
}

}  // namespace edgellm
