// SPDX-License-Identifier: MIT
#include "runtime/run_state.h"

namespace edgellm {
namespace {

TokenInput input(const RunContext& context, const ValueRef& value, const Segment& segment) {
    return {context.at(value, segment.first_row), value.ld};
}

TokenOutput output(const RunContext& context, const ValueRef& value, const Segment& segment) {
    return {context.at(value, segment.first_row), value.ld};
}

}  // namespace

void run_state(const RunContext& context, const ShortConvStage& s, size_t t) {
    const auto [first, last] = context.share(s.out.width, t);
    if (first == last) return;
    for (const Segment& seg : context.batch.segments) {
        ShortConvTask task;
        task.x = input(context, s.x, seg);
        task.y = output(context, s.out, seg);
        task.n_tokens = seg.n_rows;
        task.width = s.out.width;
        task.taps = s.taps;
        task.weight = context.weights.vector(s.weight);
        task.bias = context.weights.vector(s.bias);
        task.silu = s.silu;
        task.state = seg.sequence->state.data() + s.state_offset;
        context.kernels.state.short_conv(task, first, last);
    }
}

void run_state(const RunContext& context, const GatedDeltaStage& s, size_t t) {
    const auto [first, last] = context.share(s.n_heads, t);
    if (first == last) return;
    for (const Segment& seg : context.batch.segments) {
        GatedDeltaTask task;
        task.q = input(context, s.q, seg);
        task.k = input(context, s.k, seg);
        task.v = input(context, s.v, seg);
        task.decay = input(context, s.decay, seg);
        task.beta = input(context, s.beta, seg);
        task.y = output(context, s.out, seg);
        task.n_tokens = seg.n_rows;
        task.n_heads = s.n_heads;
        task.n_key_heads = s.n_key_heads;
        task.key_dim = s.key_dim;
        task.value_dim = s.value_dim;
        task.scale = s.scale;
        task.tiled = s.tiled;
        task.state = seg.sequence->state.data() + s.state_offset;
        context.kernels.state.gated_delta(task, first, last);
    }
}

void run_state(const RunContext& context, const SsmStage& s, size_t t) {
    const auto [first, last] = context.share(s.n_heads, t);
    if (first == last) return;
    for (const Segment& seg : context.batch.segments) {
        SsmTask task;
        task.x = input(context, s.x, seg);
        task.b = input(context, s.b, seg);
        task.c = input(context, s.c, seg);
        task.dt = input(context, s.dt, seg);
        task.a = context.weights.vector(s.a);
        task.d = context.weights.vector(s.d);
        task.dt_bias = context.weights.vector(s.dt_bias);
        task.y = output(context, s.out, seg);
        task.n_tokens = seg.n_rows;
        task.n_heads = s.n_heads;
        task.head_dim = s.head_dim;
        task.n_groups = s.n_groups;
        task.d_state = s.d_state;
        task.state = seg.sequence->state.data() + s.state_offset;
        context.kernels.state.ssm(task, first, last);
    }
}

}  // namespace edgellm
