// SPDX-License-Identifier: MIT
// Exponentials of a row's logits over one chunk, and merging of chunks. Included after a vec_*.h.
#pragma once

#include "kernels/attention/float_tiles.h"

namespace edgellm {
namespace {

constexpr float kLog2E = 1.44269504f;

EDGELLM_INLINE I32 lane_numbers() {
    I32 v;
    for (size_t i = 0; i < kLanes; ++i) v[i] = static_cast<int32_t>(i);
    return v;
}

// A row's logits in whole blocks [begin, end) of a chunk, of which the row sees [first, last). bias: added to
// them in units of log2, or nullptr.
struct RowLogits {
    float* logits;
    size_t begin, end;
    size_t first, last;
    const float* bias;
};

// The maximum logit in units of log2, and the sum of exp(logit - max).
struct RowSum {
    float max, sum;
};

// Powers of 2 of logits, which are exp(logit - max): `factor` turns logits into units of log2. Powers outside
// [first, last) are 0. f(b, powers, whether all are seen) takes them, block by block.
template <class V = Vec, class F>
RowSum exponentiate(float softcap, float factor, const RowLogits& row, F f) {
    float* const logits = row.logits;
    const size_t begin = row.begin, end = row.end, first = row.first, last = row.last;
    if (softcap > 0.0f) {
        const F32 cap = splat(softcap), inverse = splat(factor / (softcap * kLog2E));
        for (size_t i = begin; i < end; i += kLanes)
            store(logits + i, tanh(load(logits + i) * inverse) * cap);
        factor = kLog2E;
    }
    if (row.bias != nullptr) {
        for (size_t i = begin; i < end; i += kLanes)
            store(logits + i, fma(load(logits + i), splat(factor), load(row.bias + i)));
        factor = 1.0f;
    }
    // Logits that are not seen may be anything, and must not be the maximum.
    const float seen = first < last ? logits[first] : 0.0f;
    for (size_t i = begin; i < first; ++i) logits[i] = seen;
    for (size_t i = last; i < end; ++i) logits[i] = seen;
    // max drops NaN; it comes back as a power of NaN, and as a NaN sum.
    F32 high = negative_infinity();
    for (size_t b = begin; b < end; b += kKvBlockTokens) {
        unrolled<kBlockVectors>(
            [&](auto j) EDGELLM_INLINE_LAMBDA { high = max(load(logits + b + j * kLanes), high); });
    }
    float top = reduce_max(high);
    if (top == -__builtin_inff()) top = 0.0f;
    F32 sum = splat(0.0f), shift = splat(top);
    for (size_t b = begin; b < end; b += kKvBlockTokens) {
        F32 powers[kBlockVectors];
        unrolled<kBlockVectors>([&](auto j) EDGELLM_INLINE_LAMBDA {
            powers[j] = exp2_bounded((load(logits + b + j * kLanes) - shift) * factor);
            // Four at a time: eight need more registers than there are.
            if constexpr (LaneVocabulary<V>) {
                if (j % 4 == 3) {
                    V::hide(powers[j]);
                    V::hide(shift);
                }
            }
        });
        const bool all_seen = first <= b && b + kKvBlockTokens <= last;
        if (!all_seen) {
            unrolled<kBlockVectors>([&](auto j) EDGELLM_INLINE_LAMBDA {
                const I32 key = lane_numbers() + static_cast<int32_t>(b + j * kLanes);
                const I32 mask = (key >= static_cast<int32_t>(first)) & (key < static_cast<int32_t>(last));
                powers[j] = (F32)((I32)powers[j] & mask);
            });
        }
        unrolled<kBlockVectors>([&](auto j) EDGELLM_INLINE_LAMBDA { sum = sum + powers[j]; });
        f(b, powers, all_seen);
    }
    return {top * factor, reduce_add(sum)};
}

// Adds a chunk's sum and n weighted values to a row's running ones. sum == 0: nothing was seen.
void merge_row(float* out, size_t n, RowSum* running, RowSum chunk, const float* values) {
    if (chunk.sum == 0.0f) return;
    if (running->sum == 0.0f) {
        __builtin_memcpy(out, values, n * sizeof(float));
        *running = chunk;
        return;
    }
    const float top = running->max > chunk.max ? running->max : chunk.max;
    const float a = exp2_bounded_1(running->max - top), b = exp2_bounded_1(chunk.max - top);
    running->max = top;
    running->sum = running->sum * a + chunk.sum * b;
    each_vector(n, [&](size_t i, size_t count) EDGELLM_INLINE_LAMBDA {
        store_count(out + i, fma(load_count(values + i, count), splat(b), load_count(out + i, count) * a),
                    count);
    });
}

// Divides by the sum, to which a sink's share is added first.
void finish_row(float* out, size_t n, RowSum row, const float* sink) {
    if (row.sum == 0.0f) {
        for (size_t i = 0; i < n; ++i) out[i] = 0.0f;
        return;
    }
    float factor = 1.0f;
    if (sink != nullptr) {
        const float logit = *sink * kLog2E;
        const float top = row.max > logit ? row.max : logit;
        factor = exp2_bounded_1(row.max - top);
        row.sum = row.sum * factor + exp2_bounded_1(logit - top);
    }
    factor /= row.sum;
    for (size_t i = 0; i < n; ++i) out[i] *= factor;
}

}  // namespace
}  // namespace edgellm
