// SPDX-License-Identifier: MIT
// Eight groups of values side by side, one to a lane, so that sums over a group are sums lane by lane.
// Include a vec_*.h of eight lanes first. Encoders take no fma, so that every instruction set rounds alike.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/half.h"
#include "base/vec_math.h"

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
        for (int i = 0; i < N; ++i) {
            float lanes[kLanes] = {};
            for (size_t group = 0; group < n_groups; ++group) lanes[group] = values[group * N + i];
            out[i] = load(lanes);
        }
    }
};

}  // namespace
}  // namespace edgellm
