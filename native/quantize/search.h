// SPDX-License-Identifier: MIT
// Scales and levels of least weighted square error for eight groups at once.
//
// A search tries several ranges of levels. For each it rounds the values to levels, holds these fixed and
// moves scale (and offset) to their least-squares optimum; the error follows from a few sums. It rounds the
// best once more, and again until nothing changes.
#pragma once

#include "quantize/lanes.h"

namespace edgellm {
namespace {

// Levels low .. high, each an integer.
template <int low, int high>
struct Integers {
    static constexpr float kLow = low, kHigh = high;
    static EDGELLM_INLINE F32 level(F32 x) { return clamp(nearest(x), kLow, kHigh); }
    static EDGELLM_INLINE I32 code(F32 x) { return nearest_int(level(x)) - low; }
};

// A format's table of sixteen levels in ascending order.
template <class Format>
struct TableLevels {
    static constexpr const int8_t* kLevels = Format::kLevels;
    static constexpr float kLow = kLevels[0], kHigh = kLevels[15];
    static EDGELLM_INLINE F32 level(F32 x) {
        F32 found = splat(kLevels[0]);
        for (int i = 1; i < 16; ++i) found = select(x > splat(border(i)), splat(kLevels[i]), found);
        return found;
    }
    static EDGELLM_INLINE I32 code(F32 x) {
        I32 found = {};
        for (int i = 1; i < 16; ++i) found -= x > splat(border(i));
        return found;
    }

  private:
    // Between level i - 1 and level i.
    static constexpr float border(int i) { return 0.5f * static_cast<float>(kLevels[i - 1] + kLevels[i]); }
};

// Candidates summed in one loop, so that their chains of additions overlap.
constexpr int kTogether = 3;

// x ~ d * level, lane by lane.
struct LevelSums {
    F32 lx, ll;  // of weight * level * x and weight * level^2
};

template <class Levels, int K, int N, bool kWeighted>
EDGELLM_INLINE void level_sums(const Groups<N, kWeighted>& g, const F32* inverses, LevelSums* sums) {
    F32 lx[K], ll[K], inverse[K];
    for (int k = 0; k < K; ++k) {
        lx[k] = ll[k] = splat(0.0f);
        inverse[k] = inverses[k];
    }
    for (int i = 0; i < N; ++i) {
        for (int k = 0; k < K; ++k) {
            const F32 level = Levels::level(g.x[i] * inverse[k]);
            const F32 weighted = g.weight(i) * level;
            lx[k] += weighted * g.x[i];
            ll[k] += weighted * level;
        }
    }
    for (int k = 0; k < K; ++k) sums[k] = {lx[k], ll[k]};
}

// The square error of d * level with the best levels for d.
template <class Levels, int N, bool kWeighted>
EDGELLM_INLINE F32 scaled_error(const Groups<N, kWeighted>& g, F32 d) {
    const F32 inverse = quotient(splat(1.0f), d);
    F32 error = splat(0.0f);
    for (int i = 0; i < N; ++i) {
        const F32 off = d * Levels::level(g.x[i] * inverse) - g.x[i];
        error += g.weight(i) * off * off;
    }
    return error;
}

// Tries 2 * steps + 1 scales that put the value of largest magnitude on and around the outermost level of
// each side; the best is moved to its optimum and rounded again `refits` times.
template <class Levels, int N, bool kWeighted>
F32 search_scale(const Groups<N, kWeighted>& g, int steps, float step, int refits) {
    F32 extreme = splat(0.0f);
    for (const F32& value : g.x) extreme = select(absolute(value) > absolute(extreme), value, extreme);
    const F32 inverse_extreme = quotient(splat(1.0f), extreme);
    F32 best_d = extreme * (1.0f / Levels::kLow), best = splat(0.0f);
    // Maximizes lx^2 / ll, the part of the sum of squares that the levels explain.
    const auto consider = [&](const LevelSums& s) {
        const F32 d = quotient(s.lx, s.ll);
        const F32 explained = s.lx * d;
        const I32 better = explained > best;
        best = select(better, explained, best);
        best_d = select(better, d, best_d);
    };
    F32 inverses[kTogether];
    LevelSums sums[kTogether];
    int n = 0;
    for (const float end : {Levels::kLow, Levels::kHigh}) {
        for (int i = -steps; i <= steps; ++i) {
            inverses[n++] = inverse_extreme * (end * (1.0f + step * static_cast<float>(i)));
            if (n < kTogether) continue;
            level_sums<Levels, kTogether>(g, inverses, sums);
            for (const LevelSums& s : sums) consider(s);
            n = 0;
        }
    }
    for (int k = 0; k < n; ++k) {
        level_sums<Levels, 1>(g, inverses + k, sums);
        consider(sums[0]);
    }
    for (int i = 0; i < refits; ++i) {
        const F32 inverse = quotient(splat(1.0f), best_d);
        level_sums<Levels, 1>(g, &inverse, sums);
        consider(sums[0]);
    }
    return best_d;
}

// x ~ d * level + b with levels 0 .. top.
struct Affine {
    F32 d, b;
};

template <int top, int N, bool kWeighted>
EDGELLM_INLINE F32 affine_error(const Groups<N, kWeighted>& g, F32 d, F32 b) {
    const F32 inverse = quotient(splat(1.0f), d);
    F32 error = splat(0.0f);
    for (int i = 0; i < N; ++i) {
        const F32 off = d * clamp(nearest((g.x[i] - b) * inverse), 0, top) + b - g.x[i];
        error += g.weight(i) * off * off;
    }
    return error;
}

// Tries ranges that leave out `first` to `last` times `step` of the values' range at either end; the best is
// moved to its optimum and rounded again `refits` times. negative: b must not be above zero.
template <int top, bool negative, int N, bool kWeighted>
Affine search_affine(const Groups<N, kWeighted>& g, int first, int last, float step, int refits) {
    F32 low = g.x[0], high = g.x[0];
    F32 sw = splat(0.0f), sx = splat(0.0f);
    for (int i = 0; i < N; ++i) {
        low = min(low, g.x[i]);
        high = max(high, g.x[i]);
        sw += g.weight(i);
        sx += g.weight(i) * g.x[i];
    }
    if (negative) low = min(low, splat(0.0f));
    const F32 range = high - low;
    Affine best{range * (1.0f / top), low};
    // Part of the sum of squares around zero that the levels explain; the rest is the error.
    F32 explained = splat(-__FLT_MAX__);
    const auto consider = [&](F32 inverse, F32 b) {
        const F32 start = splat(0.0f) - b * inverse;
        F32 sq = splat(0.0f), sqq = splat(0.0f), sqx = splat(0.0f);
        for (int i = 0; i < N; ++i) {
            const F32 q = clamp(nearest(g.x[i] * inverse + start), 0, top);
            const F32 weighted = g.weight(i) * q;
            sq += weighted;
            sqq += weighted * q;
            sqx += weighted * g.x[i];
        }
        F32 d = quotient(sw * sqx - sx * sq, sw * sqq - sq * sq);
        F32 offset = quotient(sx - d * sq, sw);
        if (negative) {
            const I32 above = offset > splat(0.0f);
            offset = select(above, splat(0.0f), offset);
            d = select(above, quotient(sqx, sqq), d);
        }
        const F32 gain =
            d * (2.0f * sqx - d * sqq) + offset * (2.0f * sx - offset * sw) - 2.0f * d * offset * sq;
        const I32 better = (gain > explained) & (d > splat(0.0f));
        explained = select(better, gain, explained);
        best.d = select(better, d, best.d);
        best.b = select(better, offset, best.b);
    };
    for (int below = first; below <= last; ++below) {
        for (int above = first; above <= last; ++above) {
            const float cut_low = step * static_cast<float>(below),
                        cut_high = step * static_cast<float>(above);
            const F32 inverse = quotient(splat(top / (1.0f - cut_low - cut_high)), range);
            consider(inverse, low + range * cut_low);
        }
    }
    for (int i = 0; i < refits; ++i) consider(quotient(splat(1.0f), best.d), best.b);
    return best;
}

// As search_affine with b held at the lowest value, for values that already lie on evenly spaced levels.
template <int top, int N, bool kWeighted>
F32 search_range(const Groups<N, kWeighted>& g, F32 low, int steps, float step) {
    F32 high = g.x[0];
    for (const F32& value : g.x) high = max(high, value);
    const F32 range = high - low;
    F32 best_d = range * (1.0f / top), best = affine_error<top>(g, best_d, low);
    for (int i = -steps; i < steps; ++i) {
        const F32 inverse = quotient(splat(top * (1.0f + step * static_cast<float>(i))), range);
        F32 qq = splat(0.0f), qx = splat(0.0f);
        for (int k = 0; k < N; ++k) {
            const F32 above = g.x[k] - low;
            const F32 q = clamp(nearest(above * inverse), 0, top);
            qq += g.weight(k) * q * q;
            qx += g.weight(k) * q * above;
        }
        const F32 d = quotient(qx, qq);
        const F32 error = affine_error<top>(g, d, low);
        best_d = select(error < best, d, best_d);
        best = select(error < best, error, best);
    }
    return best_d;
}

// As search_range without a search: the whole range or, with 31 steps, the 15 that an encoding in 4 bits
// leaves behind.
template <int top, int N, bool kWeighted>
F32 plain_range(const Groups<N, kWeighted>& g, F32 low) {
    F32 high = g.x[0];
    for (const F32& value : g.x) high = max(high, value);
    const F32 d = (high - low) * (1.0f / top);
    if (top == 15) return d;
    const F32 even = (high - low) * (1.0f / (top - 1));
    return select(affine_error<top>(g, even, low) < affine_error<top>(g, d, low), even, d);
}

}  // namespace
}  // namespace edgellm
