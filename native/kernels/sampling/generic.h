// SPDX-License-Identifier: MIT
// Passes over a row of logits in the lanes of a vec_*.h, included before this file.
#pragma once

#include "base/vec_math.h"
#include "kernels/sampling/sampling.h"

namespace edgellm {
namespace {

bool block_max(const float* x, size_t n, float* out) {
    I32 nan = splat_int(0);
    size_t b = 0;
    for (; (b + 1) * kLogitBlock <= n; ++b) {
        const float* at = x + b * kLogitBlock;
        F32 high = load(at);
        nan = nan | (high != high);
        for (size_t i = kLanes; i < kLogitBlock; i += kLanes) {
            const F32 v = load(at + i);
            nan = nan | (v != v);
            high = max(high, v);
        }
        out[b] = reduce_max(high);
    }
    bool any_nan = false;
    for (size_t i = 0; i < kLanes; ++i) any_nan |= nan[i] != 0;
    if (b * kLogitBlock < n) {
        float high = -__builtin_inff();
        for (size_t i = b * kLogitBlock; i < n; ++i) {
            any_nan |= x[i] != x[i];
            high = x[i] > high ? x[i] : high;
        }
        out[b] = high;
    }
    return !any_nan;
}

// Float sums of a run, added up in double.
double exp_sum(const float* x, size_t n, float top, float factor, float least, float* p, double* runs) {
    double total = 0.0;
    for (size_t start = 0; start < n; start += kLogitRun) {
        const size_t end = n - start < kLogitRun ? n : start + kLogitRun;
        F32 sum = splat(0.0f);
        const auto term = [=](F32 v) {
            const F32 e = exp_nonpositive((v - top) * factor);
            return v >= splat(least) ? e : splat(0.0f);
        };
        size_t i = start;
        for (; i + kLanes <= end; i += kLanes) {
            const F32 e = term(load(x + i));
            if (p != nullptr) store(p + i, e);
            sum = sum + e;
        }
        if (i < end) {
            const F32 e = term(load_part(x + i, end - i, -__builtin_inff()));
            if (p != nullptr) store_part(p + i, e, end - i);
            sum = sum + e;
        }
        const double run = reduce_add(sum);
        if (p != nullptr) runs[start / kLogitRun] = run;
        total += run;
    }
    return total;
}

constexpr SamplingKernels kKernels = {block_max, exp_sum};

}  // namespace
}  // namespace edgellm
