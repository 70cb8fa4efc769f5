// SPDX-License-Identifier: MIT
// Operations on one token's row: norms, rotations, activations. Each is a fixed sequence of float operations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/arch.h"

namespace edgellm {

enum class NormKind : uint8_t { kRms, kLayer, kL2 };
// Activations with their names in a program.
#define EDGELLM_ACTIVATIONS(X)  \
    X(kSilu, "silu")            \
    X(kGelu, "gelu")            \
    X(kGeluTanh, "gelu_tanh")   \
    X(kGeluQuick, "gelu_quick") \
    X(kRelu, "relu")            \
    X(kRelu2, "relu2")          \
    X(kSigmoid, "sigmoid")      \
    X(kTanh, "tanh")            \
    X(kSoftplus, "softplus")    \
    X(kExp, "exp")              \
    X(kSwigluOai, "swiglu_oai") \
    X(kXielu, "xielu")
enum class Activation : uint8_t {
#define EDGELLM_ENUMERATOR(kind, name) kind,
    EDGELLM_ACTIVATIONS(EDGELLM_ENUMERATOR)
#undef EDGELLM_ENUMERATOR
};
// Returns false if `name` is no activation.
inline bool activation_from_name(std::string_view name, Activation* out) {
#define EDGELLM_NAMED(kind, kind_name) \
    if (name == kind_name) return *out = Activation::kind, true;
    EDGELLM_ACTIVATIONS(EDGELLM_NAMED)
#undef EDGELLM_NAMED
    return false;
}
enum class RopeKind : uint8_t { kNeox, kInterleaved };

// y = normalized(x) * weight + bias, over each of `groups` slices of a row.
struct NormTask {
    NormKind kind;
    size_t groups = 1;
    float eps = 0.0f;
    // nullptr, or floats for one slice that all share, with per_row for each slice its own.
    const float *weight = nullptr, *bias = nullptr;
    bool per_row = false;
};

// y = x * factor * weight + bias.
struct AffineTask {
    float factor = 1.0f;
    const float* weight = nullptr;  // nullptr, or as many floats as x, or one if weight_scalar
    bool weight_scalar = false;
    const float* bias = nullptr;
    bool bias_scalar = false;
};

// y = fn(x). kXielu alone has numbers: alpha_p x^2 + beta x above 0, alpha_n (e^x - 1 - x) + beta x below.
struct ActivationTask {
    Activation fn;
    float alpha_p = 0.0f, alpha_n = 0.0f, beta = 0.0f;
};

// Rows of n floats. y may be an input, unless said otherwise.
struct RowKernels {
    void (*norm)(const NormTask& task, const float* x, size_t n, float* y);
    // Cosines and sines of position * inv_freq[i], times mscale, n_pairs each: once per token and table.
    void (*rope_angles)(const double* inv_freq, size_t n_pairs, float mscale, uint32_t position, float* cos,
                        float* sin);
    // In place over `groups` heads of head_dim floats: the first 2 * n_pairs values of each are rotated.
    void (*rope)(RopeKind kind, float* x, size_t groups, size_t head_dim, const float* cos, const float* sin,
                 size_t n_pairs);
    // y = activation(gate) * up; kSwigluOai alone has a limit and alpha. fn is not kXielu.
    void (*glu)(Activation fn, const float* gate, const float* up, size_t n, float limit, float alpha,
                float* y);
    void (*activation)(const ActivationTask& task, const float* x, size_t n, float* y);
    void (*softcap)(const float* x, size_t n, float cap, float* y);
    void (*add)(const float* a, const float* b, size_t n, float* y);
    void (*mul)(const float* a, const float* b, size_t n, float* y);
    void (*affine)(const AffineTask& task, const float* x, size_t n, float* y);
    // In place: exp(x - max) / sum.
    void (*softmax)(float* x, size_t n);
};

const RowKernels& row_kernels(Isa isa);

}  // namespace edgellm
