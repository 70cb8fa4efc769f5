// SPDX-License-Identifier: MIT
// Search for the scales of blocks of 256 values. Each group of a block has a small integer as its scale, and
// perhaps another as its minimum; the block has half-precision numbers d and m that multiply them.
//
// Each group starts with its own best scale. Then, twice: d and m move to their least-squares optimum over
// the whole block, and each group moves its integers by one where that makes its error smaller.
#pragma once

#include <cmath>

#include "quantize/search.h"

namespace edgellm {
namespace {

constexpr int kRefits = 2;

// Improves the groups' integers, and refits d and m as long as that makes the block's error smaller.
template <class Block>
void refine(Block& block) {
    float error = block.improve();
    for (int i = 0; i < kRefits; ++i) {
        const Block before = block;
        block.refit();
        const float refitted = block.improve();
        if (!(refitted < error)) {
            block = before;
            return;
        }
        error = refitted;
    }
}

// The groups of a block.
template <int N>
struct Groups256 {
    static constexpr int kBatches = 256 / N / kLanes;
    Groups<N> groups[kBatches];

    // Returns false if a value is not finite.
    bool read(const float* x, const float* importance) {
        bool finite = true;
        for (int k = 0; k < kBatches; ++k) {
            const int start = k * kLanes * N;
            groups[k].read(x + start, importance == nullptr ? nullptr : importance + start);
            finite = finite && groups[k].finite();
        }
        return finite;
    }
};

// x ~ d * scale * q - m * minimum, q in 0 .. top, scale and minimum in 0 .. top_scale.
template <int N, int top, int top_scale>
struct AffineBlock : Groups256<N> {
    using Groups256<N>::kBatches, Groups256<N>::groups;
    F32 scale[kBatches], minimum[kBatches];
    float d = 0, m = 0;

    // Weights for values without importances: large values count more, as they do in most sums that they
    // enter.
    void weigh_by_magnitude() {
        for (Groups<N>& g : groups) {
            F32 power = splat(0.0f);
            for (const F32& value : g.x) power += value * value;
            float mean[kLanes];
            store(mean, power);
            for (float& lane : mean) lane = std::sqrt(lane / N);
            for (int i = 0; i < N; ++i) g.w[i] = load(mean) + 0.5f * absolute(g.x[i]);
        }
    }

    void search(int steps, float step) {
        Affine own[kBatches];
        float most_d = 0, most_m = 0;
        for (int k = 0; k < kBatches; ++k) {
            own[k] = search_affine<top, true>(groups[k], -1, steps - 1, step, 2);
            for (size_t lane = 0; lane < kLanes; ++lane) {
                most_d = own[k].d[lane] > most_d ? own[k].d[lane] : most_d;
                most_m = -own[k].b[lane] > most_m ? -own[k].b[lane] : most_m;
            }
        }
        d = round_to_half(most_d / top_scale);
        m = round_to_half(most_m / top_scale);
        for (int k = 0; k < kBatches; ++k) {
            scale[k] = clamp(nearest(quotient(own[k].d, splat(d))), 0, top_scale);
            minimum[k] = clamp(nearest(quotient(splat(0.0f) - own[k].b, splat(m))), 0, top_scale);
        }
        refine(*this);
    }

    // The codes of the 256 values.
    void codes(const float* x, uint8_t* out) const {
        for (int g = 0; g < 256 / N; ++g) {
            const float group_scale = d * scale[g / kLanes][g % kLanes];
            const F32 offset = splat(m * minimum[g / kLanes][g % kLanes]);
            const F32 inverse = splat(group_scale == 0 ? 0.0f : 1.0f / group_scale);
            for (int i = g * N; i < (g + 1) * N; i += kLanes) {
                const F32 level = clamp(nearest((load(x + i) + offset) * inverse), 0, top);
                store_bytes(out + i, nearest_int(level));
            }
        }
    }

    // Moves each group's integers to the best of their neighbours, given d and m; returns the block's error.
    float improve() {
        float total = 0;
        for (int k = 0; k < kBatches; ++k) {
            const Groups<N>& g = groups[k];
            const F32 middle = scale[k];
            F32 best = affine_error<top>(g, d * middle, splat(-m) * minimum[k]);
            for (const float change : {0.0f, -1.0f, 1.0f}) {
                const F32 trial = clamp(middle + change, 0, top_scale);
                const F32 lowest = best_minimum(g, d * trial, minimum[k]);
                const F32 error = affine_error<top>(g, d * trial, splat(-m) * lowest);
                const I32 better = error < best;
                best = select(better, error, best);
                scale[k] = select(better, trial, scale[k]);
                minimum[k] = select(better, lowest, minimum[k]);
            }
            total += sum_lanes(best);
        }
        return total;
    }

    // Best integer minimum for the codes that `group_scale` and the minimum `present` give.
    F32 best_minimum(const Groups<N>& g, F32 group_scale, F32 present) const {
        const F32 inverse = quotient(splat(1.0f), group_scale);
        const F32 offset = m * present;
        F32 off = splat(0.0f), sw = splat(0.0f);
        for (int i = 0; i < N; ++i) {
            const F32 q = clamp(nearest((g.x[i] + offset) * inverse), 0, top);
            off += g.w[i] * (group_scale * q - g.x[i]);
            sw += g.w[i];
        }
        return clamp(nearest(quotient(off, sw * m)), 0, top_scale);
    }

    // d and m of least error for the present integers.
    void refit() {
        F32 uu = splat(0.0f), uv = splat(0.0f), vv = splat(0.0f), ux = splat(0.0f), vx = splat(0.0f);
        for (int k = 0; k < kBatches; ++k) {
            const F32 inverse = quotient(splat(1.0f), d * scale[k]), offset = m * minimum[k];
            for (int i = 0; i < N; ++i) {
                const F32 x = groups[k].x[i], w = groups[k].w[i];
                const F32 u = scale[k] * clamp(nearest((x + offset) * inverse), 0, top),
                          v = splat(0.0f) - minimum[k];
                uu += w * u * u;
                uv += w * u * v;
                vv += w * v * v;
                ux += w * u * x;
                vx += w * v * x;
            }
        }
        const float a = sum_lanes(uu), b = sum_lanes(uv), c = sum_lanes(vv), p = sum_lanes(ux),
                    r = sum_lanes(vx);
        const float determinant = a * c - b * b;
        const float both_d = (p * c - r * b) / determinant, both_m = (r * a - p * b) / determinant;
        if (determinant > 0 && both_d > 0 && both_m > 0) {
            d = round_to_half(both_d);
            m = round_to_half(both_m);
        } else if (a > 0 && p > 0) {
            d = round_to_half((p - b * m) / a);
        }
    }
};

// x ~ d * scale * level, scale in low_scale .. high_scale.
template <int N, class Levels, int low_scale, int high_scale>
struct ScaledBlock : Groups256<N> {
    using Groups256<N>::kBatches, Groups256<N>::groups;
    F32 scale[kBatches];
    float d = 0;

    void search(int steps, float step) {
        F32 own[kBatches];
        float most = 0;
        for (int k = 0; k < kBatches; ++k) {
            own[k] = search_scale<Levels>(groups[k], steps, step, 2);
            for (size_t lane = 0; lane < kLanes; ++lane) {
                const float group = own[k][lane];
                most = (group < 0 ? -group : group) > (most < 0 ? -most : most) ? group : most;
            }
        }
        d = round_to_half(most / low_scale);
        for (int k = 0; k < kBatches; ++k) {
            scale[k] = clamp(nearest(quotient(own[k], splat(d))), low_scale, high_scale);
        }
        refine(*this);
    }

    // The codes of the 256 values.
    void codes(const float* x, uint8_t* out) const {
        for (int g = 0; g < 256 / N; ++g) {
            const float group_scale = d * scale[g / kLanes][g % kLanes];
            const F32 inverse = splat(group_scale == 0 ? 0.0f : 1.0f / group_scale);
            for (int i = g * N; i < (g + 1) * N; i += kLanes)
                store_bytes(out + i, Levels::code(load(x + i) * inverse));
        }
    }

    // Moves each group's integer to the best of its neighbours, given d; returns the block's error.
    float improve() {
        float total = 0;
        for (int k = 0; k < kBatches; ++k) {
            const F32 middle = scale[k];
            F32 best = scaled_error<Levels>(groups[k], d * middle);
            for (const float change : {-1.0f, 1.0f}) {
                const F32 trial = clamp(middle + change, low_scale, high_scale);
                const F32 error = scaled_error<Levels>(groups[k], d * trial);
                const I32 better = error < best;
                best = select(better, error, best);
                scale[k] = select(better, trial, scale[k]);
            }
            total += sum_lanes(best);
        }
        return total;
    }

    // d of least error for the present integers.
    void refit() {
        F32 uu = splat(0.0f), ux = splat(0.0f);
        for (int k = 0; k < kBatches; ++k) {
            const F32 inverse = quotient(splat(1.0f), d * scale[k]);
            for (int i = 0; i < N; ++i) {
                const F32 u = scale[k] * Levels::level(groups[k].x[i] * inverse);
                uu += groups[k].w[i] * u * u;
                ux += groups[k].w[i] * u * groups[k].x[i];
            }
        }
        const float power = sum_lanes(uu);
        if (power > 0) d = round_to_half(sum_lanes(ux) / power);
    }
};

}  // namespace
}  // namespace edgellm
