// SPDX-License-Identifier: MIT
// Row-local operations become row programs.
#include "base/memory.h"
#include "runtime/planner.h"

namespace edgellm {

void Planner::place_row(const Node& n, std::vector<RowOp>* ops) {
    const Op& o = op(n.op);
    if (n.part == Part::kKvWrite) {
        place_kv_write(n.op, ops);
        written_[static_cast<size_t>(n.op)] = true;
    } else if (n.part == Part::kRoute) {
        place_route(n.op, ops);
        written_[static_cast<size_t>(n.op)] = true;
    } else if (is_column_slice(o)) {
        place_view(n.op);
    } else {
        RowOp r = row_op(o, width_of(n.op));
        r.out = new_value(n.op);
        ops->push_back(r);
    }
}

std::pair<size_t, size_t> Planner::column_slice(int i) const {
    const Op& o = op(i);
    const int64_t start = o.integer("start");
    const size_t size = positive(o, "size"), n = width_of(o.ins[0]);
    require(start >= 0 && size <= n && static_cast<uint64_t>(start) <= n - size, o,
            "columns [start, start + size) leave its input of " + std::to_string(n));
    expect(o, "size", size, width_of(i));
    return {static_cast<size_t>(start), size};
}

// A slice of columns is a view of its input.
void Planner::place_view(int i) {
    const auto [start, size] = column_slice(i);
    if (is_output(i)) fail(op(i), "is an output of the program, which a slice cannot be");
    ValueRef ref = refs_[static_cast<size_t>(op(i).ins[0])];
    ref.column += start;
    ref.width = size;
    refs_[static_cast<size_t>(i)] = ref;
    made_[static_cast<size_t>(i)] = true;
}

RowOp Planner::row_op(const Op& o, size_t width) {
    RowOp r{};
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
            row_affine(o, width, &r);
            break;
        case OpKind::kRope:
            row_rope(o, width, &r);
            break;
        case OpKind::kPositionScale:
            r.kind = RowOpKind::kPositionScale;
            r.factor = static_cast<float>(o.number("beta"));
            r.size = positive(o, "length");
            expect(o, "the width of its input", r.a.width, width);
            break;
        case OpKind::kGlu:
            row_glu(o, width, &r);
            break;
        case OpKind::kActivation:
            row_activation(o, width, &r);
            break;
        case OpKind::kAdd:
            r.kind = RowOpKind::kAdd;
            expect(o, "the width of input a", r.a.width, width);
            expect(o, "the width of input b", r.b.width, width);
            break;
        case OpKind::kMul:
            r.kind = RowOpKind::kMul;
            expect(o, "the width of input a", r.a.width, width);
            require(width % r.b.width == 0, o,
                    "the width of input b is " + std::to_string(r.b.width) + ", which does not divide " +
                        std::to_string(width));
            break;
        case OpKind::kSoftcap:
            r.kind = RowOpKind::kSoftcap;
            r.cap = static_cast<float>(o.number("cap"));
            expect(o, "the width of its input", r.a.width, width);
            require(r.cap > 0, o, "cap is " + o.text("cap") + ", expected a number above 0");
            break;
        case OpKind::kSlice:
            row_slice(o, width, &r);
            break;
        case OpKind::kConcat:
            row_concat(o, width, &r);
            break;
        case OpKind::kRepeat:
            row_repeat(o, width, &r);
            break;
        default:
            fail(o, "is not a row operation");
    }
    return r;
}

void Planner::row_affine(const Op& o, size_t width, RowOp* r) {
    r->kind = RowOpKind::kAffine;
    r->factor = static_cast<float>(o.number("factor"));
    r->weight = sized_vector(o, "weight", width, &r->weight_scalar);
    r->bias = sized_vector(o, "bias", width, &r->bias_scalar);
    expect(o, "the width of its input", r->a.width, width);
}

void Planner::row_glu(const Op& o, size_t width, RowOp* r) {
    r->kind = RowOpKind::kGlu;
    r->fn = parse_activation(o, o.text("activation"));
    r->limit = static_cast<float>(o.number("limit"));
    r->alpha = static_cast<float>(o.number("alpha"));
    expect(o, "the width of gate", r->a.width, width);
    expect(o, "the width of up", r->b.width, width);
}

void Planner::row_activation(const Op& o, size_t width, RowOp* r) {
    r->kind = RowOpKind::kActivation;
    r->fn = parse_activation(o, o.text("fn"));
    expect(o, "the width of its input", r->a.width, width);
    require(r->fn != Activation::kSwigluOai, o, "'swiglu_oai' needs a gate: use the op 'glu'");
}

void Planner::row_slice(const Op& o, size_t width, RowOp* r) {
    r->kind = RowOpKind::kSlice;
    r->groups = positive(o, "groups");
    r->size = positive(o, "size");
    r->start = static_cast<size_t>(o.integer("start"));
    require(o.integer("start") >= 0 && r->a.width % r->groups == 0 &&
                r->start + r->size <= r->a.width / r->groups && width == r->groups * r->size,
            o, "columns [start, start + size) are not in its input's groups, or make another width");
}

void Planner::row_concat(const Op& o, size_t width, RowOp* r) {
    r->kind = RowOpKind::kConcat;
    r->groups = positive(o, "groups");
    r->repeat_a = o.boolean("repeat_a");
    r->repeat_b = o.boolean("repeat_b");
    require((r->repeat_a || r->a.width % r->groups == 0) && (r->repeat_b || r->b.width % r->groups == 0) &&
                width == (r->repeat_a ? r->a.width * r->groups : r->a.width) +
                             (r->repeat_b ? r->b.width * r->groups : r->b.width),
            o, "its inputs do not divide into groups, or do not make its width together");
}

void Planner::row_repeat(const Op& o, size_t width, RowOp* r) {
    r->kind = RowOpKind::kRepeat;
    r->groups = positive(o, "groups");
    r->times = positive(o, "times");
    r->interleave = o.boolean("interleave");
    require(r->a.width % r->groups == 0 && r->a.width * r->times == width, o,
            "groups do not divide its input, or times repetitions are not its width");
}

void Planner::row_embed(const Op& o, size_t width, RowOp* r) {
    r->kind = RowOpKind::kEmbed;
    const std::string& source = o.text("source");
    r->source = source == "token"      ? EmbedSource::kToken
                : source == "position" ? EmbedSource::kPosition
                : source == "first"    ? EmbedSource::kFirst
                : source == "segment"  ? EmbedSource::kSegment
                                       : (fail(o, "unknown source '" + source + "'"), EmbedSource::kToken);
    const int w = o.weight("weight");
    require(decl(w).shape.size() == 2 && decl(w).shape[1] == static_cast<int64_t>(width), o,
            decl(w).name + " is not a matrix with rows of " + std::to_string(width) + " values");
    r->separator = static_cast<int>(o.integer("separator"));
    require(r->source != EmbedSource::kSegment || decl(w).shape[0] >= 2, o,
            decl(w).name + " has one row, expected one for each of two segments");
    if (r->source == EmbedSource::kToken) {
        require(decl(w).shape[0] >= p_.n_vocab, o,
                decl(w).name + " has " + std::to_string(decl(w).shape[0]) + " rows, expected " +
                    std::to_string(p_.n_vocab) + ", the size of the vocabulary");
    }
    require(width % format(w).block_size == 0, o,
            "the format of " + decl(w).name + " cannot hold rows of " + std::to_string(width) + " values");
    r->index = static_cast<int>(plan_.embeddings.size());
    plan_.embeddings.push_back(w);
}

void Planner::row_norm(const Op& o, size_t width, RowOp* r) {
    r->kind = RowOpKind::kNorm;
    const std::string& kind = o.text("kind");
    r->norm = kind == "rms"     ? NormKind::kRms
              : kind == "layer" ? NormKind::kLayer
              : kind == "l2"    ? NormKind::kL2
                                : (fail(o, "unknown norm '" + kind + "'"), NormKind::kRms);
    r->eps = static_cast<float>(o.number("eps"));
    r->groups = positive(o, "groups");
    expect(o, "the width of its input", r->a.width, width);
    require(width % r->groups == 0, o,
            std::to_string(r->groups) + " groups do not divide its width of " + std::to_string(width));
    r->weight = vector(o, "weight");
    r->bias = vector(o, "bias");
    for (VectorId id : {r->weight, r->bias}) {
        if (id < 0) continue;
        const size_t n = vector_size(id);
        require(n == width || n == width / r->groups, o,
                "a weight has " + std::to_string(n) + " values, expected " +
                    std::to_string(width / r->groups) + " or " + std::to_string(width));
        r->per_row = n == width && r->groups > 1;
    }
    if (r->weight >= 0 && r->bias >= 0) {
        expect(o, "the size of bias", vector_size(r->bias), vector_size(r->weight));
    }
}

void Planner::row_rope(const Op& o, size_t width, RowOp* r) {
    r->kind = RowOpKind::kRope;
    r->groups = positive(o, "groups");
    const std::string& kind = o.text("kind");
    require(kind == "neox" || kind == "interleaved", o,
            "unknown kind '" + kind + "', expected neox or interleaved");
    r->rope = kind == "neox" ? RopeKind::kNeox : RopeKind::kInterleaved;
    const int table = p_.table_index(o.text("table"));
    const size_t n_pairs = p_.tables[static_cast<size_t>(table)].inv_freq.size();
    require(r->a.width == width && width % r->groups == 0 && 2 * n_pairs <= width / r->groups, o,
            "its table rotates " + std::to_string(2 * n_pairs) + " values, more than a head has");
    const VectorId factors = vector(o, "factors");
    if (factors >= 0) expect(o, "the size of factors", vector_size(factors), n_pairs);
    r->index = angle_set(table, factors);
}

int Planner::angle_set(int table, VectorId factors) {
    for (size_t i = 0; i < plan_.angles.size(); ++i) {
        if (plan_.angles[i].table == table && plan_.angles[i].factors == factors) return static_cast<int>(i);
    }
    const size_t n_pairs = p_.tables[static_cast<size_t>(table)].inv_freq.size();
    plan_.angles.push_back({table, factors, plan_.angle_floats_per_row, n_pairs});
    plan_.angle_floats_per_row += align_up(2 * n_pairs, 16);
    return static_cast<int>(plan_.angles.size() - 1);
}

void Planner::place_kv_write(int i, std::vector<RowOp>* ops) {
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
    ops->push_back(r);
}

void Planner::place_route(int i, std::vector<RowOp>* ops) {
    RowOp r{};
    r.kind = RowOpKind::kRoute;
    r.routing = make_routing(op(i));
    r.routing.slot = plan_.n_moe++;
    moe_slots_[i] = r.routing.slot;
    plan_.max_used = std::max<size_t>(plan_.max_used, r.routing.n_used);
    plan_.max_experts = std::max<size_t>(plan_.max_experts, r.routing.n_experts);
    r.a = use(op(i).ins[1]);
    ops->push_back(r);
}

}  // namespace edgellm
