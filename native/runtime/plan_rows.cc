// SPDX-License-Identifier: MIT
// Row-local operations become row programs.
#include "base/memory.h"
#include "runtime/planner.h"

namespace edgellm {

void Planner::place_row(const Node& n, std::vector<RowOp>* ops) {
    const Op& o = op(n.op);
    if (n.part == Part::kKvWrite) {
        place_kv_write(n.op, ops);
        plan_.select_after = stage_index();
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
            r.what = embed_op(o, width);
            break;
        case OpKind::kNorm:
            r.what = norm_op(o, width);
            break;
        case OpKind::kAffine:
            r.what = affine_op(o, width);
            expect(o, "the width of its input", r.a.width, width);
            break;
        case OpKind::kRope:
            r.what = rope_op(o, width);
            break;
        case OpKind::kPositionScale:
            r.what = PositionScaleOp{static_cast<float>(o.number("beta")), positive(o, "length")};
            expect(o, "the width of its input", r.a.width, width);
            break;
        case OpKind::kGlu:
            r.what = glu_op(o);
            expect(o, "the width of gate", r.a.width, width);
            expect(o, "the width of up", r.b.width, width);
            break;
        case OpKind::kActivation:
            r.what = activation_op(o);
            expect(o, "the width of its input", r.a.width, width);
            break;
        case OpKind::kAdd:
            r.what = AddOp{};
            expect(o, "the width of input a", r.a.width, width);
            expect(o, "the width of input b", r.b.width, width);
            break;
        case OpKind::kMul:
            r.what = MulOp{};
            expect(o, "the width of input a", r.a.width, width);
            require(width % r.b.width == 0, o,
                    "the width of input b is " + std::to_string(r.b.width) + ", which does not divide " +
                        std::to_string(width));
            break;
        case OpKind::kSoftcap:
            r.what = softcap_op(o);
            expect(o, "the width of its input", r.a.width, width);
            break;
        case OpKind::kSlice:
            r.what = slice_op(o, width);
            break;
        case OpKind::kConcat:
            r.what = concat_op(o, width);
            break;
        case OpKind::kRepeat:
            r.what = repeat_op(o, width);
            break;
        default:
            fail(o, "is not a row operation");
    }
    return r;
}

AffineOp Planner::affine_op(const Op& o, size_t width) {
    AffineOp affine{static_cast<float>(o.number("factor"))};
    affine.weight = sized_vector(o, "weight", width, &affine.weight_scalar);
    affine.bias = sized_vector(o, "bias", width, &affine.bias_scalar);
    return affine;
}

GluOp Planner::glu_op(const Op& o) const {
    const Activation fn = parse_activation(o, o.text("activation"));
    require(fn != Activation::kXielu, o, "'xielu' has no gate: use the op 'activation'");
    return {fn, static_cast<float>(o.number("limit")), static_cast<float>(o.number("alpha"))};
}

ActivationOp Planner::activation_op(const Op& o) const {
    const Activation fn = parse_activation(o, o.text("fn"));
    require(fn != Activation::kSwigluOai, o, "'swiglu_oai' needs a gate: use the op 'glu'");
    return {{fn, static_cast<float>(o.number("alpha_p")), static_cast<float>(o.number("alpha_n")),
             static_cast<float>(o.number("beta"))}};
}

SoftcapOp Planner::softcap_op(const Op& o) const {
    const auto cap = static_cast<float>(o.number("cap"));
    require(cap > 0, o, "cap is " + o.text("cap") + ", expected a number above 0");
    return {cap};
}

SliceOp Planner::slice_op(const Op& o, size_t width) const {
    const SliceOp slice{positive(o, "groups"), static_cast<size_t>(o.integer("start")), positive(o, "size")};
    const size_t n = width_of(o.ins[0]);
    require(o.integer("start") >= 0 && n % slice.groups == 0 &&
                slice.start + slice.size <= n / slice.groups && width == slice.groups * slice.size,
            o, "columns [start, start + size) are not in its input's groups, or make another width");
    return slice;
}

ConcatOp Planner::concat_op(const Op& o, size_t width) const {
    const ConcatOp concat{positive(o, "groups"), o.boolean("repeat_a"), o.boolean("repeat_b")};
    const size_t a = width_of(o.ins[0]), b = width_of(o.ins[1]);
    require(
        (concat.repeat_a || a % concat.groups == 0) && (concat.repeat_b || b % concat.groups == 0) &&
            width == (concat.repeat_a ? a * concat.groups : a) + (concat.repeat_b ? b * concat.groups : b),
        o, "its inputs do not divide into groups, or do not make its width together");
    return concat;
}

RepeatOp Planner::repeat_op(const Op& o, size_t width) const {
    const RepeatOp repeat{positive(o, "groups"), positive(o, "times"), o.boolean("interleave")};
    const size_t n = width_of(o.ins[0]);
    require(n % repeat.groups == 0 && n * repeat.times == width, o,
            "groups do not divide its input, or times repetitions are not its width");
    return repeat;
}

EmbedOp Planner::embed_op(const Op& o, size_t width) {
    const std::string& name = o.text("source");
    const EmbedSource source = name == "token"      ? EmbedSource::kToken
                               : name == "position" ? EmbedSource::kPosition
                               : name == "first"    ? EmbedSource::kFirst
                               : name == "segment"
                                   ? EmbedSource::kSegment
                                   : (fail(o, "unknown source '" + name + "'"), EmbedSource::kToken);
    const int w = o.weight("weight");
    require(decl(w).shape.size() == 2 && decl(w).shape[1] == static_cast<int64_t>(width), o,
            decl(w).name + " is not a matrix with rows of " + std::to_string(width) + " values");
    require(source != EmbedSource::kSegment || decl(w).shape[0] >= 2, o,
            decl(w).name + " has one row, expected one for each of two segments");
    if (source == EmbedSource::kPosition) {
        const auto longest = static_cast<int64_t>(plan_.options.context);
        require(decl(w).shape[0] >= longest, o,
                decl(w).name + " has " + std::to_string(decl(w).shape[0]) +
                    " rows, expected one for each position of a context of " + std::to_string(longest));
    }
    if (source == EmbedSource::kToken) {
        require(decl(w).shape[0] >= p_.n_vocab, o,
                decl(w).name + " has " + std::to_string(decl(w).shape[0]) + " rows, expected " +
                    std::to_string(p_.n_vocab) + ", the size of the vocabulary");
    }
    require(width % format(w).block_size == 0, o,
            "the format of " + decl(w).name + " cannot hold rows of " + std::to_string(width) + " values");
    plan_.embeddings.push_back(w);
    return {source, plan_.embeddings.size() - 1, static_cast<int>(o.integer("separator"))};
}

NormOp Planner::norm_op(const Op& o, size_t width) {
    const std::string& name = o.text("kind");
    const NormKind kind = name == "rms"     ? NormKind::kRms
                          : name == "layer" ? NormKind::kLayer
                          : name == "l2"    ? NormKind::kL2
                                            : (fail(o, "unknown norm '" + name + "'"), NormKind::kRms);
    NormOp norm{kind, positive(o, "groups"), static_cast<float>(o.number("eps"))};
    expect(o, "the width of its input", width_of(o.ins[0]), width);
    require(width % norm.groups == 0, o,
            std::to_string(norm.groups) + " groups do not divide its width of " + std::to_string(width));
    norm.weight = vector(o, "weight");
    norm.bias = vector(o, "bias");
    for (VectorId id : {norm.weight, norm.bias}) {
        if (id < 0) continue;
        const size_t n = vector_size(id);
        require(n == width || n == width / norm.groups, o,
                "a weight has " + std::to_string(n) + " values, expected " +
                    std::to_string(width / norm.groups) + " or " + std::to_string(width));
        norm.per_row = n == width && norm.groups > 1;
    }
    if (norm.weight >= 0 && norm.bias >= 0) {
        expect(o, "the size of bias", vector_size(norm.bias), vector_size(norm.weight));
    }
    return norm;
}

RopeOp Planner::rope_op(const Op& o, size_t width) {
    const size_t n_heads = positive(o, "groups");
    const std::string& kind = o.text("kind");
    require(kind == "neox" || kind == "interleaved", o,
            "unknown kind '" + kind + "', expected neox or interleaved");
    const int table = p_.table_index(o.text("table"));
    const size_t n_pairs = p_.tables[static_cast<size_t>(table)].inv_freq.size();
    require(width_of(o.ins[0]) == width && width % n_heads == 0 && 2 * n_pairs <= width / n_heads, o,
            "its table rotates " + std::to_string(2 * n_pairs) + " values, more than a head has");
    const VectorId factors = vector(o, "factors");
    if (factors >= 0) expect(o, "the size of factors", vector_size(factors), n_pairs);
    return {kind == "neox" ? RopeKind::kNeox : RopeKind::kInterleaved, n_heads, angle_set(table, factors)};
}

size_t Planner::angle_set(int table, VectorId factors) {
    for (size_t i = 0; i < plan_.angles.size(); ++i) {
        if (plan_.angles[i].table == table && plan_.angles[i].factors == factors) return i;
    }
    const size_t n_pairs = p_.tables[static_cast<size_t>(table)].inv_freq.size();
    plan_.angles.push_back({table, factors, plan_.angle_floats_per_row, n_pairs});
    plan_.angle_floats_per_row += align_up(2 * n_pairs, 16);
    return plan_.angles.size() - 1;
}

void Planner::place_kv_write(int i, std::vector<RowOp>* ops) {
    const Op& o = op(i);
    const int cache = cache_index(o);
    const AttentionShape& c = plan_.cache_shapes[static_cast<size_t>(cache)];
    require(width_of(o.ins[1]) == size_t{c.n_kv_heads} * c.key_dim &&
                width_of(o.ins[2]) == size_t{c.n_kv_heads} * c.value_dim,
            o, "keys or values do not fit cache " + std::to_string(cache));
    RowOp r{KvWriteOp{static_cast<size_t>(cache)}};
    r.a = use(o.ins[1]);
    r.b = use(o.ins[2]);
    ops->push_back(r);
}

void Planner::place_route(int i, std::vector<RowOp>* ops) {
    Routing routing = make_routing(op(i));
    routing.slot = plan_.n_moe++;
    moe_slots_[i] = routing.slot;
    plan_.max_used = std::max<size_t>(plan_.max_used, routing.n_used);
    plan_.max_experts = std::max<size_t>(plan_.max_experts, routing.n_experts);
    RowOp r{routing};
    r.a = use(op(i).ins[1]);
    ops->push_back(r);
}

}  // namespace edgellm
