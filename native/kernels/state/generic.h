// SPDX-License-Identifier: MIT
// Recurrent operations over the lanes of a vec_*.h, included before this file.
#pragma once

#include "base/vec_math.h"
#include "kernels/state/state.h"

namespace edgellm {
namespace {

EDGELLM_INLINE const float* row_of(const TokenInput& x, size_t token) {
    return x.data + token * x.stride;
}
EDGELLM_INLINE float* row_of(const TokenOutput& y, size_t token) {
    return y.data + token * y.stride;
}

constexpr size_t kTapsAtOnce = 8;

// Channels [c, c + count), count <= kLanes, and their part of the state.
EDGELLM_INLINE void conv_channels(const ShortConvTask& task, size_t c, size_t count) {
    const size_t taps = task.taps, tail = taps - 1, width = task.width, n_tokens = task.n_tokens;
    float* const state = task.state;
    const float* const weight = task.weight;
    const TokenInput x = task.x;
    const TokenOutput y = task.y;
    const bool silu = task.silu;
    // Row r of the state's rows followed by the inputs.
    const auto input = [&](size_t r) { return r < tail ? state + r * width : row_of(x, r - tail); };
    const F32 start = task.bias == nullptr ? splat(0.0f) : load_count(task.bias + c, count);
    for (size_t j0 = 0; j0 < taps; j0 += kTapsAtOnce) {
        const size_t n = taps - j0 < kTapsAtOnce ? taps - j0 : kTapsAtOnce;
        alignas(64) float w[kTapsAtOnce][kLanes] = {};
        for (size_t j = 0; j < n; ++j)
            for (size_t i = 0; i < count; ++i) w[j][i] = weight[(c + i) * taps + j0 + j];
        for (size_t t = 0; t < n_tokens; ++t) {
            float* const out = row_of(y, t) + c;
            F32 acc = j0 == 0 ? start : load_count(out, count);
            for (size_t j = 0; j < n; ++j)
                acc = fma(load(w[j]), load_count(input(t + j0 + j) + c, count), acc);
            if (silu && j0 + n == taps) acc = acc / (exp(-acc) + 1.0f);
            store_count(out, acc, count);
        }
    }
    for (size_t i = 0; i < tail; ++i)
        store_count(state + i * width + c, load_count(input(n_tokens + i) + c, count), count);
}

void short_conv(const ShortConvTask& task, size_t first_channel, size_t last_channel) {
    size_t c = first_channel;
    for (; c + kLanes <= last_channel; c += kLanes) conv_channels(task, c, kLanes);
    if (c < last_channel) conv_channels(task, c, last_channel - c);
}

// One token of one head.
struct DeltaToken {
    const float *q, *k;
    float gate, beta;
    float scale;
    size_t key_dim, value_dim;
};

// N vectors of value dimensions from v, y and the head's state S; the last vector has `count` lanes.
//   u = (g S)^T k; S = g S + k (beta (v - u))^T; y = S^T (q scale)
template <size_t N>
EDGELLM_INLINE void delta_step(const DeltaToken& token, const float* v, size_t count, float* y,
                               float* state) {
    const float *const q = token.q, *const k = token.k;
    const float gate = token.gate, scale = token.scale;
    const size_t key_dim = token.key_dim, value_dim = token.value_dim;
    F32 u[N];
    for (size_t j = 0; j < N; ++j) u[j] = splat(0.0f);
    const auto lanes = [&](size_t j) { return j + 1 == N ? count : kLanes; };
    for (size_t d = 0; d < key_dim; ++d) {
        const F32 x = splat(k[d]);
        for (size_t j = 0; j < N; ++j) {
            const F32 s = load_count(state + d * value_dim + j * kLanes, lanes(j)) * gate;
            u[j] = fma(s, x, u[j]);
        }
    }
    F32 out[N];
    for (size_t j = 0; j < N; ++j) {
        u[j] = (load_count(v + j * kLanes, lanes(j)) - u[j]) * token.beta;
        out[j] = splat(0.0f);
    }
    for (size_t d = 0; d < key_dim; ++d) {
        const F32 x = splat(k[d]), z = splat(q[d] * scale);
        for (size_t j = 0; j < N; ++j) {
            float* at = state + d * value_dim + j * kLanes;
            const F32 s = fma(x, u[j], load_count(at, lanes(j)) * gate);
            store_count(at, s, lanes(j));
            out[j] = fma(s, z, out[j]);
        }
    }
    for (size_t j = 0; j < N; ++j) store_count(y + j * kLanes, out[j], lanes(j));
}

void gated_delta(const GatedDeltaTask& task, size_t first_head, size_t last_head) {
    constexpr size_t N = 4;
    const size_t key_dim = task.key_dim, value_dim = task.value_dim;
    for (size_t h = first_head; h < last_head; ++h) {
        const size_t key_head = task.tiled ? h % task.n_key_heads : h / (task.n_heads / task.n_key_heads);
        float* const state = task.state + h * key_dim * value_dim;
        for (size_t t = 0; t < task.n_tokens; ++t) {
            const DeltaToken token{row_of(task.q, t) + key_head * key_dim,
                                   row_of(task.k, t) + key_head * key_dim,
                                   exp(splat(row_of(task.decay, t)[h]))[0],
                                   row_of(task.beta, t)[h],
                                   task.scale,
                                   key_dim,
                                   value_dim};
            const float* const v = row_of(task.v, t) + h * value_dim;
            float* const y = row_of(task.y, t) + h * value_dim;
            size_t j = 0;
            for (; j + N * kLanes <= value_dim; j += N * kLanes)
                delta_step<N>(token, v + j, kLanes, y + j, state + j);
            for (; j < value_dim; j += kLanes) {
                const size_t count = value_dim - j < kLanes ? value_dim - j : kLanes;
                delta_step<1>(token, v + j, count, y + j, state + j);
            }
        }
    }
}

void ssm(const SsmTask& task, size_t first_head, size_t last_head) {
    const size_t head_dim = task.head_dim, d_state = task.d_state;
    for (size_t h = first_head; h < last_head; ++h) {
        const size_t group = h / (task.n_heads / task.n_groups);
        float* const state = task.state + h * head_dim * d_state;
        for (size_t t = 0; t < task.n_tokens; ++t) {
            const float* const x = row_of(task.x, t) + h * head_dim;
            const float* const b = row_of(task.b, t) + group * d_state;
            const float* const c = row_of(task.c, t) + group * d_state;
            float* const y = row_of(task.y, t) + h * head_dim;
            const float raw = row_of(task.dt, t)[h] + task.dt_bias[h];
            const float step =
                (raw > 0.0f ? raw : 0.0f) + __builtin_log1pf(__builtin_expf(-__builtin_fabsf(raw)));
            const float keep = exp(splat(step * task.a[h]))[0];
            for (size_t p = 0; p < head_dim; ++p) {
                float* const row = state + p * d_state;
                const F32 drive = splat(step * x[p]);
                F32 dot = splat(0.0f);
                size_t i = 0;
                for (; i + kLanes <= d_state; i += kLanes) {
                    const F32 v = fma(drive, load(b + i), load(row + i) * keep);
                    store(row + i, v);
                    dot = fma(v, load(c + i), dot);
                }
                if (i < d_state) {
                    const size_t count = d_state - i;
                    const F32 v = fma(drive, load_part(b + i, count), load_part(row + i, count) * keep);
                    store_part(row + i, v, count);
                    dot = fma(v, load_part(c + i, count), dot);
                }
                y[p] = reduce_add(dot) + task.d[h] * x[p];
            }
        }
    }
}

constexpr StateKernels kKernels = {short_conv, gated_delta, ssm};

}  // namespace
}  // namespace edgellm
