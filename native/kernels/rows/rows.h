// SPDX-License-Identifier: MIT
// Operations on one token's row: norms, rotations, activations. Each is a fixed sequence of float operations.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/arch.h"

namespace edgellm {

enum class NormKind : uint8_t { kRms, kLayer, kL2 };
enum class Activation : uint8_t {
    kSilu,
    kGelu,
    kGeluTanh,
    kGeluQuick,
    kRelu,
    kRelu2,
    kSigmoid,
    kTanh,
    kSoftplus,
    kExp,
    kSwigluOai
};
enum class RopeKind : uint8_t { kNeox, kInterleaved };

struct RowKernels {
    // Each of `groups` slices of x (n floats in all); weight and bias: nullptr, n/groups floats
    // (per_row=false) or n floats (per_row=true). y may be x.
    void (*norm)(NormKind kind, const float* x, size_t n, size_t groups, float eps, const float* weight,
                 const float* bias, bool per_row, float* y);
    // cos/sin of position * inv_freq[i], times mscale, n_pairs each: computed once per token and table.
    void (*rope_angles)(const double* inv_freq, size_t n_pairs, float mscale, uint32_t position, float* cos,
                        float* sin);
    // In place over `groups` heads of head_dim floats; rotates the first 2 * n_pairs values of each.
    void (*rope)(RopeKind kind, float* x, size_t groups, size_t head_dim, const float* cos, const float* sin,
                 size_t n_pairs);
    // y = activation(gate) * up (kSwigluOai uses limit and alpha). y may be gate or up.
    void (*glu)(Activation fn, const float* gate, const float* up, size_t n, float limit, float alpha,
                float* y);
    void (*activation)(Activation fn, const float* x, size_t n, float* y);
    void (*softcap)(const float* x, size_t n, float cap, float* y);
    void (*add)(const float* a, const float* b, size_t n, float* y);
    void (*mul)(const float* a, const float* b, size_t n, float* y);
    // y = x * factor * weight + bias; weight, bias: nullptr, or n floats, or 1 float (scalar=true).
    void (*affine)(const float* x, size_t n, float factor, const float* weight, bool weight_scalar,
                   const float* bias, bool bias_scalar, float* y);
    // In place: exp(x - max) / sum.
    void (*softmax)(float* x, size_t n);
};

const RowKernels& row_kernels(Isa isa);

}  // namespace edgellm
