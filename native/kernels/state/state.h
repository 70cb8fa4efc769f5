// SPDX-License-Identifier: MIT
// Operations that carry a recurrent state along a sequence, one token after another. The state is float32 and
// belongs to the sequence; a head's (or channel's) work depends on no other head's, so threads split by head
// or channel range.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/arch.h"

namespace edgellm {

struct StateKernels {
    // Causal depthwise convolution of `n_tokens` consecutive tokens of one sequence, channels [c0, c1).
    // x, y: row strides ldx, ldy; weight [width][taps]; bias nullptr or [width]; state [(taps - 1)][width],
    // oldest row first, is updated. silu: apply x * sigmoid(x) to the result. y must not be x.
    void (*short_conv)(const float* x, size_t ldx, float* y, size_t ldy, size_t n_tokens, size_t width,
                       size_t taps, const float* weight, const float* bias, bool silu, size_t c0, size_t c1,
                       float* state);

    // Gated delta rule for heads [h0, h1). q, k: [token][n_key_heads * key_dim]; v, y: [token][n_heads *
    // value_dim]; decay, beta: [token][n_heads]; each with its own row stride. state
    // [n_heads][key_dim][value_dim] is updated. See "gated_delta" in edgellm/program/ops.py for the formula.
    void (*gated_delta)(const float* q, size_t ldq, const float* k, size_t ldk, const float* v, size_t ldv,
                        const float* decay, size_t ldd, const float* beta, size_t ldb, size_t n_tokens,
                        size_t n_heads, size_t n_key_heads, size_t key_dim, size_t value_dim, float scale,
                        bool tiled, size_t h0, size_t h1, float* y, size_t ldy, float* state);

    // Mamba-2 scan for heads [h0, h1). x, y: [token][n_heads * head_dim]; b, c: [token][n_groups * d_state];
    // dt: [token][n_heads]; a, d, dt_bias: [n_heads]. state [n_heads][head_dim][d_state] is updated.
    void (*ssm)(const float* x, size_t ldx, const float* b, size_t ldb, const float* c, size_t ldc,
                const float* dt, size_t lddt, const float* a, const float* d, const float* dt_bias,
                size_t n_tokens, size_t n_heads, size_t head_dim, size_t n_groups, size_t d_state, size_t h0,
                size_t h1, float* y, size_t ldy, float* state);
};

const StateKernels& state_kernels(Isa isa);

}  // namespace edgellm
