// SPDX-License-Identifier: MIT
#include "program/program.h"

#include <charconv>
#include <limits>
#include <span>

#include "base/error.h"

namespace edgellm {
namespace {

// Signature of an op: number of inputs, weight roles (optional ones end in '?'), attributes. SPECS in
// edgellm/program/ops.py has the same with the meaning of each; a test compares them.
struct Spec {
    const char* name;
    OpKind kind;
    int n_inputs;
    std::vector<const char*> roles;
    std::vector<const char*> attrs;
};

const std::vector<Spec>& specs() {
    static const std::vector<Spec> kSpecs = {
        {"embed", OpKind::kEmbed, 0, {"weight"}, {"source", "separator"}},
        {"norm", OpKind::kNorm, 1, {"weight?", "bias?"}, {"kind", "eps", "groups"}},
        {"linear", OpKind::kLinear, 1, {"weight", "bias?"}, {}},
        {"linear_groups", OpKind::kLinearGroups, 1, {"weight"}, {"groups"}},
        {"affine", OpKind::kAffine, 1, {"weight?", "bias?"}, {"factor"}},
        {"rope", OpKind::kRope, 1, {"factors?"}, {"groups", "kind", "table"}},
        {"position_scale", OpKind::kPositionScale, 1, {}, {"beta", "length"}},
        {"attention",
         OpKind::kAttention,
         3,
         {"sinks?", "distance_bias?"},
         {"cache", "n_heads", "scale", "window", "softcap", "causal", "max_distance", "max_bias",
          "bias_scale"}},
        {"attention_shared",
         OpKind::kAttentionShared,
         1,
         {"sinks?"},
         {"cache", "n_heads", "scale", "window", "softcap"}},
        {"glu", OpKind::kGlu, 2, {}, {"activation", "limit", "alpha"}},
        {"activation", OpKind::kActivation, 1, {}, {"fn", "alpha_p", "alpha_n", "beta"}},
        {"add", OpKind::kAdd, 2, {}, {}},
        {"mul", OpKind::kMul, 2, {}, {}},
        {"softcap", OpKind::kSoftcap, 1, {}, {"cap"}},
        {"slice", OpKind::kSlice, 1, {}, {"groups", "start", "size"}},
        {"concat", OpKind::kConcat, 2, {}, {"groups", "repeat_a", "repeat_b"}},
        {"repeat", OpKind::kRepeat, 1, {}, {"groups", "times", "interleave"}},
        {"moe",
         OpKind::kMoe,
         2,
         {"gate?", "up?", "gate_up?", "down", "gate_bias?", "up_bias?", "down_bias?", "selection_bias?",
          "expert_scale?"},
         {"n_used", "gating", "normalize", "factor", "n_groups", "n_groups_used", "group_score", "activation",
          "limit", "alpha", "jitter"}},
        {"short_conv", OpKind::kShortConv, 1, {"weight", "bias?"}, {"state", "activation"}},
        {"gated_delta", OpKind::kGatedDelta, 5, {}, {"state", "n_heads", "n_key_heads", "scale", "tiled"}},
        {"ssm", OpKind::kSsm, 4, {"a", "d", "dt_bias"}, {"state", "n_heads", "n_groups", "d_state"}},
    };
    return kSpecs;
}

struct Line {
    int number = 0;
    std::vector<std::string_view> fields;
};

[[noreturn]] void fail(int line, const std::string& what) {
    throw ModelError("program text, line " + std::to_string(line) + ": " + what);
}

int64_t parse_integer(std::string_view s, const std::string& what) {
    int64_t value = 0;
    const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), value);
    if (error != std::errc() || end != s.data() + s.size()) {
        throw ModelError(what + " is '" + std::string(s) + "', expected an integer");
    }
    return value;
}

double parse_number(std::string_view s, const std::string& what) {
    double value = 0;
    const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), value);
    if (error != std::errc() || end != s.data() + s.size()) {
        throw ModelError(what + " is '" + std::string(s) + "', expected a number");
    }
    return value;
}

int parse_size(std::string_view s, int line, const std::string& what, int least) {
    const int64_t value = parse_integer(s, "program text, line " + std::to_string(line) + ": " + what);
    if (value < least || value > std::numeric_limits<int32_t>::max()) {
        fail(line,
             what + " is " + std::to_string(value) + ", expected " + std::to_string(least) + " to 2^31 - 1");
    }
    return static_cast<int>(value);
}

// The value of field "key=value".
std::string_view keyed(const Line& line, size_t index, std::string_view key) {
    if (index >= line.fields.size()) fail(line.number, "'" + std::string(key) + "=' is missing");
    const std::string_view f = line.fields[index];
    if (f.size() <= key.size() || f.substr(0, key.size()) != key || f[key.size()] != '=') {
        fail(line.number, "found '" + std::string(f) + "', expected '" + std::string(key) + "=...'");
    }
    return f.substr(key.size() + 1);
}

std::vector<Line> split(std::string_view text) {
    std::vector<Line> lines;
    int number = 0;
    while (!text.empty()) {
        const size_t end = text.find('\n');
        std::string_view row = text.substr(0, end);
        text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
        ++number;
        if (row.empty() || row[0] == '#') continue;
        Line line{number, {}};
        while (!row.empty()) {
            const size_t space = row.find(' ');
            if (space != 0) line.fields.push_back(row.substr(0, space));
            row = space == std::string_view::npos ? std::string_view{} : row.substr(space + 1);
        }
        if (!line.fields.empty()) lines.push_back(std::move(line));
    }
    return lines;
}

struct Names {
    std::map<std::string, int, std::less<>> values, weights;
};

int find_value(const Names& names, std::string_view name, int line) {
    const auto it = names.values.find(name);
    if (it == names.values.end()) fail(line, "value '" + std::string(name) + "' is used before it is made");
    return it->second;
}

const Spec& find_spec(std::string_view name, int line) {
    for (const Spec& spec : specs()) {
        if (name == spec.name) return spec;
    }
    fail(line, "unknown operation '" + std::string(name) + "'");
}

// Inputs, weights and attributes of an op: the fields between its name and "->".
void parse_operands(const Line& line, const Names& names, Op* op) {
    const auto& f = line.fields;
    const size_t last = f.size() - 2;
    size_t i = 3;
    for (; i < last && f[i].find_first_of(":=") == std::string_view::npos; ++i) {
        op->ins.push_back(find_value(names, f[i], line.number));
    }
    for (; i < last && f[i].find('=') > f[i].find(':'); ++i) {
        const size_t colon = f[i].find(':');
        const auto weight = names.weights.find(f[i].substr(colon + 1));
        if (weight == names.weights.end())
            fail(line.number, "weight in '" + std::string(f[i]) + "' is not declared");
        op->weights.emplace(f[i].substr(0, colon), weight->second);
    }
    for (; i < last; ++i) {
        const size_t equals = f[i].find('=');
        if (equals == std::string_view::npos)
            fail(line.number, "found '" + std::string(f[i]) + "', expected attr=value");
        op->attrs.emplace(f[i].substr(0, equals), f[i].substr(equals + 1));
    }
}

void check_weights(const Op& op, const Spec& spec, int line) {
    size_t known = 0;
    for (const char* role : spec.roles) {
        std::string_view name = role;
        const bool optional = name.back() == '?';
        if (optional) name.remove_suffix(1);
        if (op.weights.count(name) != 0) {
            ++known;
        } else if (!optional) {
            fail(line, std::string(spec.name) + " needs the weight '" + std::string(name) + "'");
        }
    }
    if (known != op.weights.size())
        fail(line, std::string(spec.name) + " has a weight role it does not know");
}

void check_attrs(const Op& op, const Spec& spec, int line) {
    for (const char* attr : spec.attrs) {
        if (op.attrs.count(attr) == 0)
            fail(line, std::string(spec.name) + " needs the attribute '" + attr + "'");
    }
    if (op.attrs.size() != spec.attrs.size())
        fail(line, std::string(spec.name) + " has an attribute it does not know");
}

Op parse_op(const Line& line, const Names& names) {
    const auto& f = line.fields;
    if (f.size() < 5 || f[1] != "=" || f[f.size() - 2] != "->") {
        fail(line.number, "expected 'name = op inputs role:weight attr=value -> width'");
    }
    const Spec& spec = find_spec(f[2], line.number);
    Op op;
    op.kind = spec.kind;
    op.name = f[0];
    op.width = parse_size(f.back(), line.number, "width", 1);
    parse_operands(line, names, &op);
    if (static_cast<int>(op.ins.size()) != spec.n_inputs) {
        fail(line.number, std::string(spec.name) + " takes " + std::to_string(spec.n_inputs) +
                              " inputs, found " + std::to_string(op.ins.size()));
    }
    check_weights(op, spec, line.number);
    check_attrs(op, spec, line.number);
    return op;
}

void parse_header(const Line& line, Program* p) {
    if (line.fields.size() < 7) fail(line.number, "the program line is too short");
    p->family = line.fields[1];
    p->n_vocab = parse_size(keyed(line, 2, "n_vocab"), line.number, "n_vocab", 0);
    p->width = parse_size(keyed(line, 3, "width"), line.number, "width", 1);
    p->n_layers = parse_size(keyed(line, 4, "n_layers"), line.number, "n_layers", 0);
    p->n_ctx_train = parse_size(keyed(line, 5, "n_ctx_train"), line.number, "n_ctx_train", 1);
}

RopeTable parse_table(const Line& line) {
    if (line.fields.size() != 4) fail(line.number, "expected 'table name mscale=... inv_freq=...'");
    RopeTable table;
    table.name = line.fields[1];
    table.mscale = parse_number(keyed(line, 2, "mscale"), "mscale");
    std::string_view list = keyed(line, 3, "inv_freq");
    while (!list.empty()) {
        const size_t comma = list.find(',');
        table.inv_freq.push_back(parse_number(list.substr(0, comma), "inv_freq"));
        list = comma == std::string_view::npos ? std::string_view{} : list.substr(comma + 1);
    }
    return table;
}

CacheDecl parse_cache(const Line& line, size_t n_caches) {
    if (line.fields.size() < 2 ||
        parse_size(line.fields[1], line.number, "cache", 0) != static_cast<int>(n_caches)) {
        fail(line.number, "caches must be numbered from 0 up");
    }
    return {parse_size(keyed(line, 2, "n_kv_heads"), line.number, "n_kv_heads", 1),
            parse_size(keyed(line, 3, "key_dim"), line.number, "key_dim", 1),
            parse_size(keyed(line, 4, "value_dim"), line.number, "value_dim", 1),
            parse_size(keyed(line, 5, "window"), line.number, "window", 0)};
}

StateDecl parse_state(const Line& line, size_t n_states) {
    if (line.fields.size() < 2 ||
        parse_size(line.fields[1], line.number, "state", 0) != static_cast<int>(n_states)) {
        fail(line.number, "states must be numbered from 0 up");
    }
    return {std::string(keyed(line, 2, "kind")), parse_size(keyed(line, 3, "size"), line.number, "size", 1)};
}

WeightDecl parse_weight(const Line& line) {
    const size_t n = line.fields.size();
    if (n < 3 || n > 6) fail(line.number, "expected 'weight name dim ...' with 1 to 4 dimensions");
    WeightDecl w{std::string(line.fields[1]), {}};
    int64_t elements = 1;
    for (size_t i = 2; i < n; ++i) {
        w.shape.push_back(parse_size(line.fields[i], line.number, "dimension", 1));
        if (elements > (int64_t{1} << 48) / w.shape.back()) fail(line.number, "the weight is too large");
        elements *= w.shape.back();
    }
    return w;
}

// A line after the first, which is the header.
void parse_line(const Line& line, Names* names, Program* p) {
    const std::string_view head = line.fields[0];
    if (head == "table") {
        p->tables.push_back(parse_table(line));
    } else if (head == "cache") {
        p->caches.push_back(parse_cache(line, p->caches.size()));
    } else if (head == "state") {
        p->states.push_back(parse_state(line, p->states.size()));
    } else if (head == "weight") {
        WeightDecl w = parse_weight(line);
        if (!names->weights.emplace(w.name, p->weights.size()).second)
            fail(line.number, "the weight is declared twice");
        p->weights.push_back(std::move(w));
    } else {
        Op op = parse_op(line, *names);
        if (!names->values.emplace(op.name, p->ops.size()).second)
            fail(line.number, "the value is made twice");
        p->ops.push_back(std::move(op));
    }
}

void parse_output(const Line& line, const Names& names, Program* p) {
    p->hidden = find_value(names, keyed(line, 1, "hidden"), line.number);
    const std::string_view logits = keyed(line, 2, "logits");
    if (logits != "-") p->logits = find_value(names, logits, line.number);
}

}  // namespace

int64_t WeightDecl::elements() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
}

const std::string& Op::text(std::string_view attr) const {
    const auto it = attrs.find(attr);
    if (it == attrs.end()) throw ModelError("op " + name + " has no attribute '" + std::string(attr) + "'");
    return it->second;
}

int64_t Op::integer(std::string_view attr) const {
    return parse_integer(text(attr), "op " + name + ": " + std::string(attr));
}

double Op::number(std::string_view attr) const {
    return parse_number(text(attr), "op " + name + ": " + std::string(attr));
}

bool Op::boolean(std::string_view attr) const {
    const std::string& s = text(attr);
    if (s != "true" && s != "false") {
        throw ModelError("op " + name + ": " + std::string(attr) + " is '" + s + "', expected true or false");
    }
    return s == "true";
}

int Op::weight(std::string_view role) const {
    const auto it = weights.find(role);
    return it == weights.end() ? -1 : it->second;
}

int Program::table_index(std::string_view name) const {
    for (size_t i = 0; i < tables.size(); ++i) {
        if (tables[i].name == name) return static_cast<int>(i);
    }
    throw ModelError("program text: rope table '" + std::string(name) + "' is not declared");
}

Program parse_program(std::string_view text) {
    Program p;
    Names names;
    bool closed = false;
    for (const Line& line : split(text)) {
        const std::string_view head = line.fields[0];
        if (closed) fail(line.number, "found a line after 'output'");
        if (p.family.empty() != (head == "program")) fail(line.number, "expected one 'program' line, first");
        if (head == "program") {
            parse_header(line, &p);
        } else if (head == "output") {
            parse_output(line, names, &p);
            closed = true;
        } else {
            parse_line(line, &names, &p);
        }
    }
    if (!closed) throw ModelError("program text: the 'output' line is missing");
    return p;
}

}  // namespace edgellm
