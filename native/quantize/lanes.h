// SPDX-License-Identifier: MIT
// Eight groups of values side by side, one to a lane, so that sums over a group are sums lane by lane.
// Include a vec_*.h of eight lanes first. Encoders take no fma, so that every instruction set rounds alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/half.h"
#include "base/vec_math.h"
#include "base/vec_pair.h"

namespace edgellm {
namespace {

static_assert(kLanes == 8);

// Sum of all lanes. The order is part of the encoders' results, and not reduce_add's.
EDGELLM_INLINE float sum_lanes(F32 x) {
    return ((x[0] + x[4]) + (x[1] + x[5])) + ((x[2] + x[6]) + (x[3] + x[7]));
}
EDGELLM_INLINE float round_to_half(float x) {
    return half_to_float(float_to_half(x));
}
EDGELLM_INLINE bool is_finite(float x) {
    return x - x == 0.0f;
}

template <class V>
EDGELLM_INLINE void transpose4(V& a, V& b, V& c, V& d) {
    const V ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5),
            ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const V cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5),
            cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    a = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
    b = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
    c = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
    d = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

// Eight rows of eight become eight columns.
template <class V>
EDGELLM_INLINE void transpose(V* r) {
    for (int i = 0; i < 8; i += 4) {
        for (int j = 0; j < 4; j += 2) {
            const V a = r[i + j], b = r[i + j + 1];
            r[i + j] = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);
            r[i + j + 1] = __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
        }
        for (int j = 0; j < 2; ++j) {
            const V a = r[i + j], b = r[i + j + 2];
            r[i + j] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
            r[i + j + 2] = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
        }
    }
    for (int i = 0; i < 4; ++i) {
        const V a = r[i], b = r[i + 4];
        r[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
        r[i + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    }
}
template <class V>
EDGELLM_INLINE void transpose(Pair<V>* r) {
    transpose4(r[0].low, r[1].low, r[2].low, r[3].low);
    transpose4(r[0].high, r[1].high, r[2].high, r[3].high);
    transpose4(r[4].low, r[5].low, r[6].low, r[7].low);
    transpose4(r[4].high, r[5].high, r[6].high, r[7].high);
    for (int i = 0; i < 4; ++i) std::swap(r[i].high, r[i + 4].low);
}

// N values of each of eight groups: x[i] holds value i of all of them, weight(i) its weight in the square
// error, which is 1 without kWeighted.
template <int N, bool kWeighted = true>
struct Groups {
    F32 x[N], w[kWeighted ? N : 1];

    EDGELLM_INLINE F32 weight(int i) const {
        if constexpr (kWeighted) return w[i];
        return splat(1.0f);
    }

    // values: n_groups <= 8 groups, one after another; further lanes are filled with zeros. importance may be
    // nullptr.
    void read(const float* values, const float* importance, size_t n_groups = kLanes) {
        read_lanes(values, n_groups, x);
        if (importance == nullptr) {
            for (F32& weight : w) weight = splat(1.0f);
            return;
        }
        if constexpr (kWeighted) read_weights(importance, n_groups);
    }

    bool finite() const {
        F32 bad = splat(0.0f);
        for (const F32& value : x) bad += value * 0.0f;
        return sum_lanes(bad) == 0.0f;
    }

  private:
    void read_weights(const float* importance, size_t n_groups) {
        read_lanes(importance, n_groups, w);
        // A group that does not matter at all is encoded as if all of it mattered the same.
        F32 total = splat(0.0f);
        for (const F32& weight : w) total += weight;
        for (F32& weight : w) weight = select(total > splat(0.0f), weight, splat(1.0f));
    }

    static void read_lanes(const float* values, size_t n_groups, F32* out) {
        for (size_t start = 0; start < N; start += kLanes) {
            for (size_t group = 0; group < kLanes; ++group)
                out[start + group] = group < n_groups ? load(values + group * N + start) : splat(0.0f);
            transpose(out + start);
        }
    }
};

}  // namespace
}  // namespace edgellm
