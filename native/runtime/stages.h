// SPDX-License-Identifier: MIT
// The kinds of stages of an execution plan, listed once: `Stage` at the end.
//
// Each kind names where its values lie (for_each_value), the matrices it multiplies with (for_each_matrix:
// a second one is interleaved with the first, or -1) and the sum of the profile that its time goes to.
#pragma once

#include <cstddef>
#include <cstdint>
#include <variant>
#include <vector>

#include "kernels/attention/attention.h"
#include "kernels/rows/rows.h"
#include "runtime/profile.h"
#include "runtime/row_op.h"
#include "runtime/values.h"

namespace edgellm {

// Operations on each token's row.
struct RowStage {
    static constexpr auto kTime = &Profile::rows;

    std::vector<RowOp> ops;

    template <class Fn>
    void for_each_value(const Fn& fn) {
        for (RowOp& op : ops) op.for_each_value(fn);
    }
    template <class Fn>
    void for_each_matrix(const Fn&) const {}
};

struct LinearTask {
    ValueRef in, out;
    MatrixId matrix = -1;
    MatrixId up = -1;  // the second matrix of a fused gate/up pair, or -1
    VectorId bias = -1, up_bias = -1;
    GluOp glu{};     // of such a pair
    int quant = -1;  // index into the stage's quant slots; -1: float input
    std::vector<Epilogue> epilogue;

    // True if products are the results: nothing is added or applied to them.
    bool direct() const { return bias < 0 && up < 0 && epilogue.empty(); }
};

// A value quantized for a stage, in shared or in private memory.
struct QuantSlot {
    ValueRef value;
    size_t n_in = 0;
    size_t offset = 0;          // bytes per row into the quant arena
    size_t private_offset = 0;  // bytes into private memory
};

// Products with matrices, after a prologue of row operations.
struct LinearStage {
    static constexpr auto kTime = &Profile::linear;

    std::vector<RowOp> prologue;
    std::vector<LinearTask> tasks;
    std::vector<QuantSlot> quants;

    template <class Fn>
    void for_each_value(const Fn& fn) {
        for (RowOp& op : prologue) op.for_each_value(fn);
        for (QuantSlot& q : quants) fn(q.value);
        for (LinearTask& t : tasks) {
            fn(t.in);
            fn(t.out);
            for (Epilogue& e : t.epilogue) fn(e.operand);
        }
    }
    template <class Fn>
    void for_each_matrix(const Fn& fn) const {
        for (const LinearTask& t : tasks) fn(t.matrix, t.up);
    }
};

struct AttentionStage {
    static constexpr auto kTime = &Profile::attend;

    ValueRef q, out;
    AttentionShape shape;
    VectorId sinks = -1;
    int bias = -1;  // of the plan's biases by distance, or -1
    int cache = 0;
    bool causal = true;

    template <class Fn>
    void for_each_value(const Fn& fn) {
        fn(q);
        fn(out);
    }
    template <class Fn>
    void for_each_matrix(const Fn&) const {}
};

// Mixture of experts: the experts' products; a row operation of an earlier stage chooses the experts.
struct MoeStage {
    static constexpr auto kTime = &Profile::moe;

    ValueRef x, out;
    Routing routing;
    size_t width = 0, n_ff = 0;
    MatrixId gate = -1, up = -1, down = -1;  // gate == -1: activation(up x) without a gate
    VectorId gate_bias = -1, up_bias = -1, down_bias = -1;
    GluOp glu{};

    template <class Fn>
    void for_each_value(const Fn& fn) {
        fn(x);
        fn(out);
    }
    template <class Fn>
    void for_each_matrix(const Fn& fn) const {
        if (gate >= 0) {
            fn(gate, up);
        } else {
            fn(up, -1);
        }
        fn(down, -1);
    }
};

// Stages that carry a recurrent state: kernels/state/state.h has the shapes. state_offset: floats into a
// sequence's state.
struct ShortConvStage {
    static constexpr auto kTime = &Profile::state;

    ValueRef x, out;
    size_t state_offset = 0;
    VectorId weight = -1, bias = -1;
    size_t taps = 0;
    bool silu = false;

    template <class Fn>
    void for_each_value(const Fn& fn) {
        fn(x);
        fn(out);
    }
    template <class Fn>
    void for_each_matrix(const Fn&) const {}
};

struct GatedDeltaStage {
    static constexpr auto kTime = &Profile::state;

    ValueRef q, k, v, decay, beta, out;
    size_t state_offset = 0;
    size_t n_heads = 0, n_key_heads = 0, key_dim = 0, value_dim = 0;
    float scale = 1;
    bool tiled = false;

    template <class Fn>
    void for_each_value(const Fn& fn) {
        for (ValueRef* value : {&q, &k, &v, &decay, &beta, &out}) fn(*value);
    }
    template <class Fn>
    void for_each_matrix(const Fn&) const {}
};

struct SsmStage {
    static constexpr auto kTime = &Profile::state;

    ValueRef x, b, c, dt, out;
    size_t state_offset = 0;
    VectorId a = -1, d = -1, dt_bias = -1;
    size_t n_heads = 0, head_dim = 0, n_groups = 0, d_state = 0;

    template <class Fn>
    void for_each_value(const Fn& fn) {
        for (ValueRef* value : {&x, &b, &c, &dt, &out}) fn(*value);
    }
    template <class Fn>
    void for_each_matrix(const Fn&) const {}
};

using Stage =
    std::variant<RowStage, LinearStage, AttentionStage, MoeStage, ShortConvStage, GatedDeltaStage, SsmStage>;

}  // namespace edgellm
