// SPDX-License-Identifier: MIT
// A model program as plain data, read from its text form (docs/architecture.md, "The program's text form").
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace edgellm {

enum class OpKind : uint8_t {
    kEmbed,
    kNorm,
    kLinear,
    kLinearGroups,
    kAffine,
    kRope,
    kPositionScale,
    kAttention,
    kAttentionShared,
    kGlu,
    kActivation,
    kAdd,
    kMul,
    kSoftcap,
    kSlice,
    kConcat,
    kRepeat,
    kMoe,
    kShortConv,
    kGatedDelta,
    kSsm,
};

struct Op {
    OpKind kind;
    std::string name;                                 // the value it makes
    std::vector<int> ins;                             // values, by index of the op that makes them
    std::map<std::string, int, std::less<>> weights;  // role -> index into Program::weights
    std::map<std::string, std::string, std::less<>> attrs;
    int width = 0;

    // Attributes by name; each throws ModelError if it is absent or not of that type.
    int64_t integer(std::string_view attr) const;
    double number(std::string_view attr) const;
    bool boolean(std::string_view attr) const;
    const std::string& text(std::string_view attr) const;
    int weight(std::string_view role) const;  // -1 if absent
};

struct WeightDecl {
    std::string name;
    std::vector<int64_t> shape;  // outermost first
    int64_t elements() const;
};

struct RopeTable {
    std::string name;
    std::vector<double> inv_freq;
    double mscale = 1.0;
};

struct CacheDecl {
    int n_kv_heads, key_dim, value_dim, window;
};

struct StateDecl {
    std::string kind;
    int size;
};

struct Program {
    std::string family;
    int n_vocab = 0, width = 0, n_layers = 0, n_ctx_train = 0;
    std::vector<Op> ops;  // op i makes value i
    std::vector<WeightDecl> weights;
    std::vector<RopeTable> tables;
    std::vector<CacheDecl> caches;
    std::vector<StateDecl> states;
    int hidden = -1;
    int logits = -1;  // -1: an encoder

    int table_index(std::string_view name) const;
};

// Parses and checks structure: known ops, roles and attributes, every input made before it is used, sizes
// positive and below 2^31. Shapes against each other are checked by the plan. Throws ModelError naming the
// line.
Program parse_program(std::string_view text);

}  // namespace edgellm
