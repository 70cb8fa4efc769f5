// SPDX-License-Identifier: MIT
// Recurrent operations over the lanes of a vec_*.h, included before this file.
#pragma once

#include "base/vec_math.h"
#include "kernels/state/state.h"

namespace edgellm {
namespace {

EDGELLM_INLINE F32 load_count(const float* p, size_t count) {
    return count == kLanes ? load(p) : load_part(p, count);
}
EDGELLM_INLINE void store_count(float* p, F32 v, size_t count) {
    if (count == kLanes)
        store(p, v);
    else
        store_part(p, v, count);
}

constexpr size_t kTapsAtOnce = 8;

// Channels [c, c + count) of a convolution; its last taps - 1 inputs go to `state`.
EDGELLM_INLINE void conv_channels(const float* x, size_t ldx, float* y, size_t ldy, size_t n_tokens,
                                  size_t width, size_t taps, const float* weight, const float* bias,
                                  bool silu, size_t c, size_t count, float* state) {
    const size_t tail = taps - 1;
    const F32 start = bias == nullptr ? splat(0.0f) : load_count(bias + c, count);
    for (size_t j0 = 0; j0 < taps; j0 += kTapsAtOnce) {
        const size_t n = taps - j0 < kTapsAtOnce ? taps - j0 : kTapsAtOnce;
        alignas(64) float w[kTapsAtOnce][kLanes] = {};
        for (size_t j = 0; j < n; ++j)
            for (size_t i = 0; i < count; ++i) w[j][i] = weight[(c + i) * taps + j0 + j];
        for (size_t t = 0; t < n_tokens; ++t) {
            F32 acc = j0 == 0 ? start : load_count(y + t * ldy + c, count);
            for (size_t j = 0; j < n; ++j) {
                const size_t row = t + j0 + j;  // of the state's rows followed by the inputs
                const float* from = row < tail ? state + row * width : x + (row - tail) * ldx;
                acc = fma(load(w[j]), load_count(from + c, count), acc);
            }
            if (silu && j0 + n == taps) acc = acc / (exp(-acc) + 1.0f);
            store_count(y + t * ldy + c, acc, count);
        }
    }
    for (size_t i = 0; i < tail; ++i) {
        const size_t row = n_tokens + i;
        const float* from = row < tail ? state + row * width : x + (row - tail) * ldx;
        store_count(state + i * width + c, load_count(from + c, count), count);
    }
}

void short_conv(const float* x, size_t ldx, float* y, size_t ldy, size_t n_tokens, size_t width, size_t taps,
                const float* weight, const float* bias, bool silu, size_t c0, size_t c1, float* state) {
    size_t c = c0;
    for (; c + kLanes <= c1; c += kLanes)
        conv_channels(x, ldx, y, ldy, n_tokens, width, taps, weight, bias, silu, c, kLanes, state);
    if (c < c1) conv_channels(x, ldx, y, ldy, n_tokens, width, taps, weight, bias, silu, c, c1 - c, state);
}

// One token of one head, N vectors of value dimensions from state, v and y; the last vector has `count`
// lanes.
//   u = (g S)^T k; S = g S + k (beta (v - u))^T; y = S^T (q scale)
template <size_t N>
EDGELLM_INLINE void delta_step(const float* q, const float* k, const float* v, float gate, float beta,
                               float scale, size_t key_dim, size_t value_dim, size_t count, float* y,
                               float* state) {
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
        u[j] = (load_count(v + j * kLanes, lanes(j)) - u[j]) * beta;
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

void gated_delta(const float* q, size_t ldq, const float* k, size_t ldk, const float* v, size_t ldv,
                 const float* decay, size_t ldd, const float* beta, size_t ldb, size_t n_tokens,
                 size_t n_heads, size_t n_key_heads, size_t key_dim, size_t value_dim, float scale,
                 bool tiled, size_t h0, size_t h1, float* y, size_t ldy, float* state) {
    constexpr size_t N = 4;
    for (size_t h = h0; h < h1; ++h) {
        const size_t kh = tiled ? h % n_key_heads : h / (n_heads / n_key_heads);
        float* s = state + h * key_dim * value_dim;
        for (size_t t = 0; t < n_tokens; ++t) {
            const float* qt = q + t * ldq + kh * key_dim;
            const float* kt = k + t * ldk + kh * key_dim;
            const float* vt = v + t * ldv + h * value_dim;
            float* yt = y + t * ldy + h * value_dim;
            const float gate = exp(splat(decay[t * ldd + h]))[0], b = beta[t * ldb + h];
            size_t j = 0;
            for (; j + N * kLanes <= value_dim; j += N * kLanes)
                delta_step<N>(qt, kt, vt + j, gate, b, scale, key_dim, value_dim, kLanes, yt + j, s + j);
            for (; j < value_dim; j += kLanes) {
                const size_t count = value_dim - j < kLanes ? value_dim - j : kLanes;
                delta_step<1>(qt, kt, vt + j, gate, b, scale, key_dim, value_dim, count, yt + j, s + j);
            }
        }
    }
}

void ssm(const float* x, size_t ldx, const float* b, size_t ldb, const float* c, size_t ldc, const float* dt,
         size_t lddt, const float* a, const float* d, const float* dt_bias, size_t n_tokens, size_t n_heads,
         size_t head_dim, size_t n_groups, size_t d_state, size_t h0, size_t h1, float* y, size_t ldy,
         float* state) {
    for (size_t h = h0; h < h1; ++h) {
        const size_t g = h / (n_heads / n_groups);
        float* s = state + h * head_dim * d_state;
        for (size_t t = 0; t < n_tokens; ++t) {
            const float* xt = x + t * ldx + h * head_dim;
            const float* bt = b + t * ldb + g * d_state;
            const float* ct = c + t * ldc + g * d_state;
            float* yt = y + t * ldy + h * head_dim;
            const float raw = dt[t * lddt + h] + dt_bias[h];
            const float step =
                (raw > 0.0f ? raw : 0.0f) + __builtin_log1pf(__builtin_expf(-__builtin_fabsf(raw)));
            const float keep = exp(splat(step * a[h]))[0];
            for (size_t p = 0; p < head_dim; ++p) {
                float* row = s + p * d_state;
                const F32 drive = splat(step * xt[p]);
                F32 dot = splat(0.0f);
                size_t i = 0;
                for (; i + kLanes <= d_state; i += kLanes) {
                    const F32 v = fma(drive, load(bt + i), load(row + i) * keep);
                    store(row + i, v);
                    dot = fma(v, load(ct + i), dot);
                }
                if (i < d_state) {
                    const size_t count = d_state - i;
                    const F32 v = fma(drive, load_part(bt + i, count), load_part(row + i, count) * keep);
                    store_part(row + i, v, count);
                    dot = fma(v, load_part(ct + i, count), dot);
                }
                yt[p] = reduce_add(dot) + d[h] * xt[p];
            }
        }
    }
}

constexpr StateKernels kKernels = {short_conv, gated_delta, ssm};

}  // namespace
}  // namespace edgellm
