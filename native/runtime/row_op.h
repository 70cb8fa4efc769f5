// SPDX-License-Identifier: MIT
// Operations on one token's row, a type for each. They are gathered into row stages, the prologues of linear
// stages, and their epilogues.
#pragma once

#include <cstddef>
#include <cstdint>
#include <variant>

#include "kernels/rows/rows.h"
#include "runtime/values.h"

namespace edgellm {

enum class EmbedSource : uint8_t { kToken, kPosition, kFirst, kSegment };
enum class Gating : uint8_t { kSoftmax, kSigmoid, kSoftmaxChosen, kSparseMixer };

// A row of an embedding table.
struct EmbedOp {
    EmbedSource source;
    size_t table;   // index into ExecutionPlan::embeddings
    int separator;  // kSegment: the token id that ends the first segment
};

struct NormOp {
    NormKind kind;
    size_t groups;
    float eps;
    VectorId weight = -1, bias = -1;
    bool per_row = false;  // as in NormTask
};

// a * factor * weight + bias.
struct AffineOp {
    float factor;
    VectorId weight = -1, bias = -1;
    bool weight_scalar = false, bias_scalar = false;
};

struct RopeOp {
    RopeKind kind;
    size_t n_heads;
    size_t angles;  // index into ExecutionPlan::angles
};

// a * (1 + beta * log(1 + position / length)), the quotient rounded down.
struct PositionScaleOp {
    float beta;
    size_t length;
};

// activation(a) * b.
struct GluOp {
    Activation fn;
    float limit, alpha;
};

struct ActivationOp {
    ActivationTask task;
};

struct AddOp {};
// b holds a factor for each value of a, or for each slice of it.
struct MulOp {};

struct SoftcapOp {
    float cap;
};

// Columns [start, start + size) of each of a's groups.
struct SliceOp {
    size_t groups, start, size;
};

// Each group of a and then of b; a repeated operand is one group, taken again each time.
struct ConcatOp {
    size_t groups;
    bool repeat_a, repeat_b;
};

// Each group `times` times: one after the other if interleaved, else all groups and then all again.
struct RepeatOp {
    size_t groups, times;
    bool interleave;
};

// Keys a and values b into a cache.
struct KvWriteOp {
    size_t cache;
};

// A router: chooses each token's experts and their weights from logits.
struct Routing {
    uint32_t n_experts = 0, n_used = 0, n_groups = 1, n_groups_used = 1;
    Gating gating = Gating::kSoftmax;
    bool normalize = false, group_top2 = true;
    float factor = 1.0f, jitter = 0.0f;
    VectorId selection_bias = -1, expert_scale = -1;
    int slot = 0;  // the moe op's number: its results in Router
};

// A row in int8, for the matrices of a linear stage.
struct QuantizeOp {
    size_t slot;  // index into LinearStage::quants
};

// From a thread's private memory to the shared value.
struct ExportOp {};

struct RowOp {
    std::variant<EmbedOp, NormOp, AffineOp, RopeOp, PositionScaleOp, GluOp, ActivationOp, AddOp, MulOp,
                 SoftcapOp, SliceOp, ConcatOp, RepeatOp, KvWriteOp, Routing, QuantizeOp, ExportOp>
        what;
    ValueRef a{}, b{}, out{};  // those that the operation has

    template <class Fn>
    void for_each_value(const Fn& fn) {
        fn(a);
        fn(b);
        fn(out);
    }
};

// The calls of a std::visit, one for each type.
template <class... Calls>
struct Cases : Calls... {
    using Calls::operator()...;
};

// An operation on a tile of a linear's results while it is in cache.
struct Epilogue {
    std::variant<AffineOp, ActivationOp, SoftcapOp, AddOp, MulOp> what;
    ValueRef operand{};  // of AddOp and MulOp
};

}  // namespace edgellm
