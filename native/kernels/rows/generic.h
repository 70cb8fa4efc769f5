// SPDX-License-Identifier: MIT
// Row operations over the lanes of a vec_*.h, included before this file.
#pragma once

#include "base/vec_math.h"
#include "kernels/rows/rows.h"

namespace edgellm {
namespace {

// Sum of f(x[i]) in a fixed order: four interleaved vectors of partial sums, then the tail, then a tree. f(0)
// is not added.
template <class F>
EDGELLM_INLINE float sum_of(const float* x, size_t n, F f) {
    F32 s0 = splat(0.0f), s1 = s0, s2 = s0, s3 = s0;
    size_t i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
        s0 = s0 + f(load(x + i));
        s1 = s1 + f(load(x + i + kLanes));
        s2 = s2 + f(load(x + i + 2 * kLanes));
        s3 = s3 + f(load(x + i + 3 * kLanes));
    }
    for (; i + kLanes <= n; i += kLanes) s0 = s0 + f(load(x + i));
    if (i < n) {
        alignas(64) float lanes[kLanes] = {};
        store(lanes, f(load_part(x + i, n - i)));
        s1 = s1 + load_part(lanes, n - i);
    }
    return reduce_add((s0 + s1) + (s2 + s3));
}

EDGELLM_INLINE F32 identity(F32 v) {
    return v;
}
EDGELLM_INLINE F32 square(F32 v) {
    return v * v;
}

// y = (x - shift) * factor * weight + bias.
EDGELLM_INLINE void scale_shift(const float* x, size_t n, float shift, float factor, const float* weight,
                                const float* bias, float* y) {
    each_vector(n, [&](size_t i, size_t count) {
        F32 v = (load_count(x + i, count) - shift) * factor;
        if (weight != nullptr) v = v * load_count(weight + i, count);
        if (bias != nullptr) v = v + load_count(bias + i, count);
        store_count(y + i, v, count);
    });
}

void norm(const NormTask& task, const float* x, size_t n, float* y) {
    const size_t width = n / task.groups;
    const float eps = task.eps;
    for (size_t g = 0; g < task.groups; ++g) {
        const size_t at = g * width;
        float shift = 0.0f, factor = 1.0f;
        const float count = static_cast<float>(width);
        switch (task.kind) {
            case NormKind::kRms:
                factor = 1.0f / __builtin_sqrtf(sum_of(x + at, width, square) / count + eps);
                break;
            case NormKind::kLayer: {
                shift = sum_of(x + at, width, identity) / count;
                const auto deviation = [=](F32 v) { return (v - shift) * (v - shift); };
                factor = 1.0f / __builtin_sqrtf(sum_of(x + at, width, deviation) / count + eps);
                break;
            }
            case NormKind::kL2: {
                const float length = __builtin_sqrtf(sum_of(x + at, width, square));
                factor = 1.0f / (length > eps ? length : eps);
                break;
            }
        }
        const size_t w = task.per_row ? at : 0;
        scale_shift(x + at, width, shift, factor, task.weight == nullptr ? nullptr : task.weight + w,
                    task.bias == nullptr ? nullptr : task.bias + w, y + at);
    }
}

// In double: a float angle of a million radians has no digits left.
void rope_angles(const double* inv_freq, size_t n_pairs, float mscale, uint32_t position, float* cos,
                 float* sin) {
    for (size_t i = 0; i < n_pairs; ++i) {
        const double angle = position * inv_freq[i];
        cos[i] = static_cast<float>(__builtin_cos(angle) * mscale);
        sin[i] = static_cast<float>(__builtin_sin(angle) * mscale);
    }
}

void rope(RopeKind kind, float* x, size_t groups, size_t head_dim, const float* cos, const float* sin,
          size_t n_pairs) {
    for (size_t g = 0; g < groups; ++g, x += head_dim) {
        if (kind == RopeKind::kNeox) {
            each_vector(n_pairs, [&](size_t i, size_t count) {
                const F32 a = load_count(x + i, count), b = load_count(x + n_pairs + i, count);
                const F32 c = load_count(cos + i, count), s = load_count(sin + i, count);
                store_count(x + i, a * c - b * s, count);
                store_count(x + n_pairs + i, a * s + b * c, count);
            });
        } else {
            // Even lanes a cos - b sin, odd lanes b cos + a sin.
            alignas(64) float signs[kLanes];
            for (size_t i = 0; i < kLanes; ++i) signs[i] = i % 2 == 0 ? -1.0f : 1.0f;
            size_t i = 0;
            for (; i + kLanes / 2 <= n_pairs; i += kLanes / 2) {
                const F32 v = load(x + 2 * i);
                store(x + 2 * i,
                      v * load_twice(cos + i) + swap_pairs(v) * (load_twice(sin + i) * load(signs)));
            }
            for (; i < n_pairs; ++i) {
                const float a = x[2 * i], b = x[2 * i + 1];
                x[2 * i] = a * cos[i] - b * sin[i];
                x[2 * i + 1] = a * sin[i] + b * cos[i];
            }
        }
    }
}

// log(1 + e^x); rare enough for libm, lane by lane.
EDGELLM_INLINE F32 softplus(F32 x) {
    alignas(64) float lanes[kLanes];
    store(lanes, exp_nonpositive(-absolute(x)));
    for (size_t i = 0; i < kLanes; ++i) lanes[i] = __builtin_log1pf(lanes[i]);
    return max(splat(0.0f), x) + load(lanes);
}

template <Activation fn>
EDGELLM_INLINE F32 activate(F32 x) {
    if constexpr (fn == Activation::kSilu) return x / (exp(-x) + 1.0f);
    if constexpr (fn == Activation::kGelu) return x * normal_cdf(x);
    // x/2 (1 + tanh u) = x / (1 + e^-2u), u = sqrt(2/pi) (x + 0.044715 x^3).
    if constexpr (fn == Activation::kGeluTanh) {
        const F32 u = x * fma(x * x, splat(0.044715f * 1.59576912f), splat(1.59576912f));
        return x / (exp(-u) + 1.0f);
    }
    if constexpr (fn == Activation::kGeluQuick) return x / (exp(x * -1.702f) + 1.0f);
    if constexpr (fn == Activation::kRelu) return max(splat(0.0f), x);
    if constexpr (fn == Activation::kRelu2) return max(splat(0.0f), x) * max(splat(0.0f), x);
    if constexpr (fn == Activation::kSigmoid) return sigmoid(x);
    if constexpr (fn == Activation::kTanh) return tanh(x);
    if constexpr (fn == Activation::kSoftplus) return softplus(x);
    if constexpr (fn == Activation::kExp) return exp(x);
    return x;
}

// Calls f<fn>() for fn known at run time. kSwigluOai and kXielu are not among them: they take more than x.
template <class F>
EDGELLM_INLINE void with_activation(Activation fn, F f) {
    switch (fn) {
        case Activation::kSilu:
            return f.template operator()<Activation::kSilu>();
        case Activation::kGelu:
            return f.template operator()<Activation::kGelu>();
        case Activation::kGeluTanh:
            return f.template operator()<Activation::kGeluTanh>();
        case Activation::kGeluQuick:
            return f.template operator()<Activation::kGeluQuick>();
        case Activation::kRelu:
            return f.template operator()<Activation::kRelu>();
        case Activation::kRelu2:
            return f.template operator()<Activation::kRelu2>();
        case Activation::kSigmoid:
            return f.template operator()<Activation::kSigmoid>();
        case Activation::kTanh:
            return f.template operator()<Activation::kTanh>();
        case Activation::kSoftplus:
            return f.template operator()<Activation::kSoftplus>();
        case Activation::kExp:
            return f.template operator()<Activation::kExp>();
        case Activation::kSwigluOai:
        case Activation::kXielu:
            return;
    }
}

void glu(Activation fn, const float* gate, const float* up, size_t n, float limit, float alpha, float* y) {
    if (fn == Activation::kSwigluOai) {
        each_vector(n, [&](size_t i, size_t count) {
            // The value is min's second operand, so that NaN passes.
            const F32 g = min(splat(limit), load_count(gate + i, count));
            const F32 u = max(splat(-limit), min(splat(limit), load_count(up + i, count)));
            store_count(y + i, g * sigmoid(g * alpha) * (u + 1.0f), count);
        });
        return;
    }
    with_activation(fn, [&]<Activation F>() {
        each_vector(n, [&](size_t i, size_t count) {
            store_count(y + i, activate<F>(load_count(gate + i, count)) * load_count(up + i, count), count);
        });
    });
}

EDGELLM_INLINE F32 xielu(const ActivationTask& task, F32 x) {
    // The value is the second operand, so that NaN passes.
    const F32 above = max(splat(0.0f), x), below = min(splat(0.0f), x);
    const F32 curve = exp_nonpositive(below) - 1.0f - below;
    return fma(above * above, splat(task.alpha_p), fma(curve, splat(task.alpha_n), x * task.beta));
}

void activation(const ActivationTask& task, const float* x, size_t n, float* y) {
    if (task.fn == Activation::kXielu) {
        each_vector(n, [&](size_t i, size_t count) {
            store_count(y + i, xielu(task, load_count(x + i, count)), count);
        });
        return;
    }
    with_activation(task.fn, [&]<Activation F>() {
        each_vector(n, [&](size_t i, size_t count) {
            store_count(y + i, activate<F>(load_count(x + i, count)), count);
        });
    });
}

void softcap(const float* x, size_t n, float cap, float* y) {
    each_vector(n, [&](size_t i, size_t count) {
        store_count(y + i, tanh(load_count(x + i, count) / splat(cap)) * cap, count);
    });
}

void add(const float* a, const float* b, size_t n, float* y) {
    each_vector(n, [&](size_t i, size_t count) {
        store_count(y + i, load_count(a + i, count) + load_count(b + i, count), count);
    });
}

void mul(const float* a, const float* b, size_t n, float* y) {
    each_vector(n, [&](size_t i, size_t count) {
        store_count(y + i, load_count(a + i, count) * load_count(b + i, count), count);
    });
}

void affine(const AffineTask& task, const float* x, size_t n, float* y) {
    const AffineTask t = task;  // y may not alias a copy
    each_vector(n, [&](size_t i, size_t count) {
        F32 v = load_count(x + i, count) * t.factor;
        if (t.weight != nullptr)
            v = v * (t.weight_scalar ? splat(*t.weight) : load_count(t.weight + i, count));
        if (t.bias != nullptr) v = v + (t.bias_scalar ? splat(*t.bias) : load_count(t.bias + i, count));
        store_count(y + i, v, count);
    });
}

void softmax(float* x, size_t n) {
    F32 high = negative_infinity();
    each_vector(n, [&](size_t i, size_t count) {
        high = max(count == kLanes ? load(x + i) : load_part(x + i, count, -__builtin_inff()), high);
    });
    const float top = reduce_max(high);
    each_vector(n, [&](size_t i, size_t count) {
        store_count(x + i, exp_nonpositive(load_count(x + i, count) - top), count);
    });
    const float factor = 1.0f / sum_of(x, n, identity);
    each_vector(
        n, [&](size_t i, size_t count) { store_count(x + i, load_count(x + i, count) * factor, count); });
}

constexpr RowKernels kKernels = {norm,    rope_angles, rope, glu,    activation,
                                 softcap, add,         mul,  affine, softmax};

}  // namespace
}  // namespace edgellm
