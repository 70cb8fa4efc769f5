// SPDX-License-Identifier: MIT
#include "runtime/run_state.h"

namespace edgellm {
namespace {

// Runs thread t's share of n_units channels or heads, for each sequence of the batch. set_inputs(task, rows):
// fills a stage's own fields; rows(value) are a value's rows of the sequence.
template <class Stage, class Task, class SetInputs>
void run_sequences(const RunContext& context, const Stage& s, size_t n_units, size_t t,
                   void (*kernel)(const Task&, size_t first, size_t last), const SetInputs& set_inputs) {
    const auto [first, last] = context.share(n_units, t);
    if (first == last) return;
    for (const Segment& segment : context.batch.segments) {
        Task task;
        task.y = {context.at(s.out, segment.first_row), s.out.ld};
        task.n_tokens = segment.n_rows;
        task.state = segment.sequence->state.data() + s.state_offset;
        set_inputs(task, [&](const ValueRef& value) -> TokenInput {
            return {context.at(value, segment.first_row), value.ld};
        });
        kernel(task, first, last);
    }
}

}  // namespace

void run_state(const RunContext& context, const ShortConvStage& s, size_t t) {
    const auto set_inputs = [&](ShortConvTask& task, const auto& rows) {
        task.x = rows(s.x);
        task.width = s.out.width;
        task.taps = s.taps;
        task.weight = context.weights.vector(s.weight);
        task.bias = context.weights.vector(s.bias);
        task.silu = s.silu;
    };
    run_sequences(context, s, s.out.width, t, context.kernels.state.short_conv, set_inputs);
}

void run_state(const RunContext& context, const GatedDeltaStage& s, size_t t) {
    const auto set_inputs = [&](GatedDeltaTask& task, const auto& rows) {
        task.q = rows(s.q);
        task.k = rows(s.k);
        task.v = rows(s.v);
        task.decay = rows(s.decay);
        task.beta = rows(s.beta);
        task.n_heads = s.n_heads;
        task.n_key_heads = s.n_key_heads;
        task.key_dim = s.key_dim;
        task.value_dim = s.value_dim;
        task.scale = s.scale;
        task.tiled = s.tiled;
    };
    run_sequences(context, s, s.n_heads, t, context.kernels.state.gated_delta, set_inputs);
}

void run_state(const RunContext& context, const SsmStage& s, size_t t) {
    const auto set_inputs = [&](SsmTask& task, const auto& rows) {
        task.x = rows(s.x);
        task.b = rows(s.b);
        task.c = rows(s.c);
        task.dt = rows(s.dt);
        task.a = context.weights.vector(s.a);
        task.d = context.weights.vector(s.d);
        task.dt_bias = context.weights.vector(s.dt_bias);
        task.n_heads = s.n_heads;
        task.head_dim = s.head_dim;
        task.n_groups = s.n_groups;
        task.d_state = s.d_state;
    };
    run_sequences(context, s, s.n_heads, t, context.kernels.state.ssm, set_inputs);
}

}  // namespace edgellm
