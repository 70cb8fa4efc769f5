// SPDX-License-Identifier: MIT
// Operations that carry a recurrent state along a sequence, one token after another. The state is float32 and
// belongs to the sequence. Heads and channels do not depend on each other, so threads split them by range.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/arch.h"

namespace edgellm {

// A value of consecutive tokens: token t's floats begin at data + t * stride.
struct TokenInput {
    const float* data;
    size_t stride;
};
struct TokenOutput {
    float* data;
    size_t stride;
};

// Causal depthwise convolution over n_tokens consecutive tokens of one sequence.
struct ShortConvTask {
    TokenInput x;   // (n_tokens, width)
    TokenOutput y;  // (n_tokens, width), must not be x
    size_t n_tokens, width, taps;
    const float* weight;  // (width, taps)
    const float* bias;    // (width,) or nullptr
    bool silu;            // y * sigmoid(y) follows
    float* state;         // (taps - 1, width), the last inputs, oldest first; updated
};

// Gated delta rule; "gated_delta" in edgellm/program/ops.py has the formula.
struct GatedDeltaTask {
    TokenInput q, k;         // (n_tokens, n_key_heads * key_dim)
    TokenInput v;            // (n_tokens, n_heads * value_dim)
    TokenInput decay, beta;  // (n_tokens, n_heads)
    TokenOutput y;           // (n_tokens, n_heads * value_dim)
    size_t n_tokens, n_heads, n_key_heads, key_dim, value_dim;
    float scale;   // of q
    bool tiled;    // head h reads key head h % n_key_heads, else h / (n_heads / n_key_heads)
    float* state;  // (n_heads, key_dim, value_dim), updated
};

// Mamba-2 scan; "ssm" in edgellm/program/ops.py has the formula.
struct SsmTask {
    TokenInput x;                  // (n_tokens, n_heads * head_dim)
    TokenInput b, c;               // (n_tokens, n_groups * d_state)
    TokenInput dt;                 // (n_tokens, n_heads)
    const float *a, *d, *dt_bias;  // (n_heads,)
    TokenOutput y;                 // (n_tokens, n_heads * head_dim)
    size_t n_tokens, n_heads, head_dim, n_groups, d_state;
    float* state;  // (n_heads, head_dim, d_state), updated
};

struct StateKernels {
    void (*short_conv)(const ShortConvTask& task, size_t first_channel, size_t last_channel);
    void (*gated_delta)(const GatedDeltaTask& task, size_t first_head, size_t last_head);
    void (*ssm)(const SsmTask& task, size_t first_head, size_t last_head);
};

const StateKernels& state_kernels(Isa isa);

}  // namespace edgellm
