// SPDX-License-Identifier: MIT
// Eight groups of values side by side, one to a lane, so that sums over a group are sums lane by lane. The
// code is the compiler's own vectors without fused operations: every instruction set rounds alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/half.h"
#include "base/inline.h"

namespace edgellm {
namespace {

constexpr int kLanes = 8;
typedef float F __attribute__((vector_size(4 * kLanes)));
typedef int32_t I __attribute__((vector_size(4 * kLanes)));
typedef uint32_t U __attribute__((vector_size(4 * kLanes)));

EDGELLM_INLINE F splat(float x) {
    return F{x, x, x, x, x, x, x, x};
}
EDGELLM_INLINE F lanes_min(F a, F b) {
    return a < b ? a : b;
}
EDGELLM_INLINE F lanes_max(F a, F b) {
    return a > b ? a : b;
}
EDGELLM_INLINE F lanes_abs(F a) {
    return (F)((I)a & 0x7fffffff);
}
// To the nearest integer, ties to even, for |x| < 2^22.
EDGELLM_INLINE F nearest(F x) {
    const F shift = splat(12582912.0f);
    return (x + shift) - shift;
}
EDGELLM_INLINE F clamp(F x, float low, float high) {
    return lanes_min(lanes_max(x, splat(low)), splat(high));
}
// a / b, 0 where b is 0.
EDGELLM_INLINE F quotient(F a, F b) {
    const I zero = b == splat(0.0f);
    return zero ? splat(0.0f) : a / (zero ? splat(1.0f) : b);
}
EDGELLM_INLINE float sum(F x) {
    return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7]));
}
// The bits of the nearest binary16 numbers, as float_to_half gives them; infinity for NaN, too.
EDGELLM_INLINE I half_bits(F x) {
    const U sign = (U)x >> 16 & 0x8000u, magnitude = (U)x & 0x7fffffffu;
    const U normal = (magnitude + 0xc8000fffu + (magnitude >> 13 & 1u)) >> 13;
    const U tiny = (U)((F)magnitude + splat(0.5f)) - 0x3f000000u;
    const I is_tiny = (I)magnitude < 0x38800000, is_large = (I)magnitude >= 0x47800000;
    return (is_large ? (I)magnitude * 0 + 0x7c00 : is_tiny ? (I)tiny : (I)normal) | (I)sign;
}
EDGELLM_INLINE F round_lanes_to_half(F x) {
    const I bits = half_bits(x), magnitude = bits & 0x7fff;
    const F value = (F)(magnitude << 13) * splat(0x1p112f);
    const I infinite = magnitude >= 0x7c00;
    return (F)((infinite ? I((I)value * 0 + 0x7f800000) : (I)value) | (bits & 0x8000) << 16);
}
EDGELLM_INLINE float round_to_half(float x) {
    return half_to_float(float_to_half(x));
}
EDGELLM_INLINE bool is_finite(float x) {
    return x - x == 0.0f;
}

typedef uint8_t Codes __attribute__((vector_size(kLanes)));

EDGELLM_INLINE F load(const float* p) {
    F x;
    std::memcpy(&x, p, sizeof(x));
    return x;
}
EDGELLM_INLINE void store_codes(uint8_t* p, I codes) {
    const Codes narrow = __builtin_convertvector(codes, Codes);
    std::memcpy(p, &narrow, sizeof(narrow));
}

// Eight rows of eight become eight columns.
EDGELLM_INLINE void transpose(F* r) {
    F pairs[8], quads[8];
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = __builtin_shufflevector(r[i], r[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
        pairs[i + 1] = __builtin_shufflevector(r[i], r[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
    }
    for (int i = 0; i < 8; i += 4) {
        for (int j = 0; j < 2; ++j) {
            quads[i + j] = __builtin_shufflevector(pairs[i + j], pairs[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            quads[i + j + 2] =
                __builtin_shufflevector(pairs[i + j], pairs[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    }
    for (int i = 0; i < 4; ++i) {
        r[i] = __builtin_shufflevector(quads[i], quads[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        r[i + 4] = __builtin_shufflevector(quads[i], quads[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

// N values of each of eight groups: x[i] holds value i of all of them, weight(i) its weight in the square
// error, which is 1 without kWeighted.
template <int N, bool kWeighted = true>
struct Groups {
    F x[N], w[kWeighted ? N : 1];

    EDGELLM_INLINE F weight(int i) const {
        if constexpr (kWeighted) return w[i];
        return splat(1.0f);
    }

    // values: n_groups <= 8 groups, one after another; further lanes are filled with zeros. importance may be
    // nullptr.
    void read(const float* values, const float* importance, int n_groups = kLanes) {
        read_lanes(values, n_groups, x);
        if (importance == nullptr) {
            for (F& weight : w) weight = splat(1.0f);
            return;
        }
        if constexpr (kWeighted) read_weights(importance, n_groups);
    }

    bool finite() const {
        F bad = splat(0.0f);
        for (const F& value : x) bad += value * 0.0f;
        return sum(bad) == 0.0f;
    }

  private:
    void read_weights(const float* importance, int n_groups) {
        read_lanes(importance, n_groups, w);
        // A group that does not matter at all is encoded as if all of it mattered the same.
        F total = splat(0.0f);
        for (const F& weight : w) total += weight;
        for (F& weight : w) weight = total > splat(0.0f) ? weight : splat(1.0f);
    }

    static void read_lanes(const float* values, int n_groups, F* out) {
        for (int start = 0; start < N; start += kLanes) {
            for (int group = 0; group < kLanes; ++group) {
                out[start + group] = group < n_groups ? load(values + group * N + start) : splat(0.0f);
            }
            transpose(out + start);
        }
    }
};

}  // namespace
}  // namespace edgellm
