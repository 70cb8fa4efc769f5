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
    static EDGELLM_INLINE F level(F x) { return clamp(nearest(x), kLow, kHigh); }
    static EDGELLM_INLINE I code(F x) { return __builtin_convertvector(level(x), I) - low; }
};

// A format's table of sixteen levels in ascending order.
template <class Format>
struct TableLevels {
    static constexpr const int8_t* kLevels = Format::kLevels;
    static constexpr float kLow = kLevels[0], kHigh = kLevels[15];
    static EDGELLM_INLINE F level(F x) {
        F found = splat(kLevels[0]);
        for (int i = 1; i < 16; ++i) found = x > splat(border(i)) ? splat(kLevels[i]) : found;
        return found;
    }
    static EDGELLM_INLINE I code(F x) {
        I found = {};
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
    F lx, ll;  // of weight * level * x and weight * level^2
};

template <class Levels, int K, int N, bool kWeighted>
EDGELLM_INLINE void level_sums(const Groups<N, kWeighted>& g, const F* inverses, LevelSums* sums) {
    F lx[K], ll[K], inverse[K];
    for (int k = 0; k < K; ++k) {
        lx[k] = ll[k] = splat(0.0f);
        inverse[k] = inverses[k];
    }
    for (int i = 0; i < N; ++i) {
        for (int k = 0; k < K; ++k) {
            const F level = Levels::level(g.x[i] * inverse[k]);
            const F weighted = g.weight(i) * level;
            lx[k] += weighted * g.x[i];
            ll[k] += weighted * level;
        }
    }
    for (int k = 0; k < K; ++k) sums[k] = {lx[k], ll[k]};
}

// The square error of d * level with the best levels for d.
template <class Levels, int N, bool kWeighted>
EDGELLM_INLINE F scaled_error(const Groups<N, kWeighted>& g, F d) {
    const F inverse = quotient(splat(1.0f), d);
    F error = splat(0.0f);
    for (int i = 0; i < N; ++i) {
        const F off = d * Levels::level(g.x[i] * inverse) - g.x[i];
        error += g.weight(i) * off * off;
    }
    return error;
}

// Tries 2 * steps + 1 scales that put the value of largest magnitude on and around the outermost level of
// each side; the best is moved to its optimum and rounded again `refits` times.
template <class Levels, int N, bool kWeighted>
F search_scale(const Groups<N, kWeighted>& g, int steps, float step, int refits) {
    F extreme = splat(0.0f);
    for (const F& value : g.x) extreme = lanes_abs(value) > lanes_abs(extreme) ? value : extreme;
    const F inverse_extreme = quotient(splat(1.0f), extreme);
    F best_d = extreme * (1.0f / Levels::kLow), best = splat(0.0f);
    // Maximizes lx^2 / ll, the part of the sum of squares that the levels explain.
    const auto consider = [&](const LevelSums& s) {
        const F d = quotient(s.lx, s.ll);
        const F explained = s.lx * d;
        const I better = explained > best;
        best = better ? explained : best;
        best_d = better ? d : best_d;
    };
    F inverses[kTogether];
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
        const F inverse = quotient(splat(1.0f), best_d);
        level_sums<Levels, 1>(g, &inverse, sums);
        consider(sums[0]);
    }
    return best_d;
}

// x ~ d * level + b with levels 0 .. top.
struct Affine {
    F d, b;
};

template <int top, int N, bool kWeighted>
EDGELLM_INLINE F affine_error(const Groups<N, kWeighted>& g, F d, F b) {
    const F inverse = quotient(splat(1.0f), d);
    F error = splat(0.0f);
    for (int i = 0; i < N; ++i) {
        const F off = d * clamp(nearest((g.x[i] - b) * inverse), 0, top) + b - g.x[i];
        error += g.weight(i) * off * off;
    }
    return error;
}

// Tries ranges that leave out `first` to `last` times `step` of the values' range at either end; the best is
// moved to its optimum and rounded again `refits` times. negative: b must not be above zero.
template <int top, bool negative, int N, bool kWeighted>
Affine search_affine(const Groups<N, kWeighted>& g, int first, int last, float step, int refits) {
    F low = g.x[0], high = g.x[0];
    F sw = splat(0.0f), sx = splat(0.0f);
    for (int i = 0; i < N; ++i) {
        low = lanes_min(low, g.x[i]);
        high = lanes_max(high, g.x[i]);
        sw += g.weight(i);
        sx += g.weight(i) * g.x[i];
    }
    if (negative) low = lanes_min(low, splat(0.0f));
    const F range = high - low;
    Affine best{range * (1.0f / top), low};
    // Part of the sum of squares around zero that the levels explain; the rest is the error.
    F explained = splat(-__FLT_MAX__);
    const auto consider = [&](F inverse, F b) {
        const F start = splat(0.0f) - b * inverse;
        F sq = splat(0.0f), sqq = splat(0.0f), sqx = splat(0.0f);
        for (int i = 0; i < N; ++i) {
            const F q = clamp(nearest(g.x[i] * inverse + start), 0, top);
            const F weighted = g.weight(i) * q;
            sq += weighted;
            sqq += weighted * q;
            sqx += weighted * g.x[i];
        }
        F d = quotient(sw * sqx - sx * sq, sw * sqq - sq * sq);
        F offset = quotient(sx - d * sq, sw);
        if (negative) {
            const I above = offset > splat(0.0f);
            offset = above ? splat(0.0f) : offset;
            d = above ? quotient(sqx, sqq) : d;
        }
        const F gain =
            d * (2.0f * sqx - d * sqq) + offset * (2.0f * sx - offset * sw) - 2.0f * d * offset * sq;
        const I better = (gain > explained) & (d > splat(0.0f));
        explained = better ? gain : explained;
        best.d = better ? d : best.d;
        best.b = better ? offset : best.b;
    };
    for (int below = first; below <= last; ++below) {
        for (int above = first; above <= last; ++above) {
            const float cut_low = step * static_cast<float>(below),
                        cut_high = step * static_cast<float>(above);
            const F inverse = quotient(splat(top / (1.0f - cut_low - cut_high)), range);
            consider(inverse, low + range * cut_low);
        }
    }
    for (int i = 0; i < refits; ++i) consider(quotient(splat(1.0f), best.d), best.b);
    return best;
}

// As search_affine with b held at the lowest value, for values that already lie on evenly spaced levels.
template <int top, int N, bool kWeighted>
F search_range(const Groups<N, kWeighted>& g, F low, int steps, float step) {
    F high = g.x[0];
    for (const F& value : g.x) high = lanes_max(high, value);
    const F range = high - low;
    F best_d = range * (1.0f / top), best = affine_error<top>(g, best_d, low);
    for (int i = -steps; i < steps; ++i) {
        const F inverse = quotient(splat(top * (1.0f + step * static_cast<float>(i))), range);
        F qq = splat(0.0f), qx = splat(0.0f);
        for (int k = 0; k < N; ++k) {
            const F above = g.x[k] - low;
            const F q = clamp(nearest(above * inverse), 0, top);
            qq += g.weight(k) * q * q;
            qx += g.weight(k) * q * above;
        }
        const F d = quotient(qx, qq);
        const F error = affine_error<top>(g, d, low);
        best_d = error < best ? d : best_d;
        best = error < best ? error : best;
    }
    return best_d;
}

// As search_range without a search: the whole range or, with 31 steps, the 15 that an encoding in 4 bits
// leaves behind.
template <int top, int N, bool kWeighted>
F plain_range(const Groups<N, kWeighted>& g, F low) {
    F high = g.x[0];
    for (const F& value : g.x) high = lanes_max(high, value);
    const F d = (high - low) * (1.0f / top);
    if (top == 15) return d;
    const F even = (high - low) * (1.0f / (top - 1));
    return affine_error<top>(g, even, low) < affine_error<top>(g, d, low) ? even : d;
}

// x ~ d * (q - zero), q and zero in 0 .. 15.
struct ZeroPoint {
    F d, zero;
};

// Tries ranges as search_affine does, widened to hold zero, each with the zero points around its own; and
// scales that put the value of largest magnitude on or near the outermost level of a symmetric format.
template <int N>
ZeroPoint search_zero_point(const Groups<N>& g, int steps, float step) {
    F low = splat(0.0f), high = splat(0.0f);
    for (const F& value : g.x) {
        low = lanes_min(low, value);
        high = lanes_max(high, value);
    }
    const F range = high - low;
    ZeroPoint best{range * (1.0f / 15), splat(0.0f)};
    F best_explained = splat(-1.0f);
    const auto consider = [&](F inverse, F zero) {
        F lx = splat(0.0f), ll = splat(0.0f);
        for (int i = 0; i < N; ++i) {
            const F level = clamp(nearest(g.x[i] * inverse + zero), 0, 15) - zero;
            const F weighted = g.w[i] * level;
            lx += weighted * g.x[i];
            ll += weighted * level;
        }
        const F d = quotient(lx, ll);
        const F explained = lx * d;
        const I better = (explained > best_explained) & (d > splat(0.0f));
        best_explained = better ? explained : best_explained;
        best.d = better ? d : best.d;
        best.zero = better ? zero : best.zero;
    };
    for (int below = -1; below < steps; ++below) {
        for (int above = -1; above < steps; ++above) {
            const float cut_low = step * static_cast<float>(below),
                        cut_high = step * static_cast<float>(above);
            const F inverse = quotient(splat(15.0f / (1.0f - cut_low - cut_high)), range);
            const F zero = nearest(splat(0.0f) - (low + range * cut_low) * inverse);
            for (int move = -1; move <= 1; ++move) {
                consider(inverse, clamp(zero + static_cast<float>(move), 0, 15));
            }
        }
    }
    const F largest = lanes_max(splat(0.0f) - low, high);
    const F zero = splat(0.0f) - low < high ? splat(7.0f) : splat(8.0f);
    for (const float end : {6.0f, 7.0f, 8.0f}) {
        for (int i = -1; i <= 1; ++i) {
            consider(quotient(splat(end * (1.0f + step * static_cast<float>(i))), largest), zero);
        }
    }
    for (int i = 0; i < 2; ++i) consider(quotient(splat(1.0f), best.d), best.zero);
    return best;
}

}  // namespace
}  // namespace edgellm
