// SPDX-License-Identifier: MIT
// Scales and levels of least weighted square error for eight groups at once.
//
// A search tries several ranges; the levels each gives are held fixed while scale (and offset) move to their
// least-squares optimum, whose error follows from a few sums. The best is then moved and rounded again until
// it stays.
#pragma once

#include "formats/block32.h"
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

// The sixteen levels of IQ4_NL and IQ4_XS.
struct IQ4Levels {
    static constexpr float kLow = -127, kHigh = 113;
    static EDGELLM_INLINE F level(F x) {
        F found = splat(kIQ4Levels[0]);
        for (int i = 1; i < 16; ++i) {
            found = x > splat(border(i)) ? splat(kIQ4Levels[i]) : found;
        }
        return found;
    }
    static EDGELLM_INLINE I code(F x) {
        I found = {};
        for (int i = 1; i < 16; ++i) found -= x > splat(border(i));
        return found;
    }

  private:
    // Between level i - 1 and level i.
    static constexpr float border(int i) {
        return 0.5f * static_cast<float>(kIQ4Levels[i - 1] + kIQ4Levels[i]);
    }
};

// x ~ d * level, lane by lane.
struct LevelSums {
    F lx, ll;  // of weight * level * x and weight * level^2
};

template <class Levels, int N>
EDGELLM_INLINE LevelSums level_sums(const Groups<N>& g, F inverse) {
    LevelSums s{splat(0.0f), splat(0.0f)};
    for (int i = 0; i < N; ++i) {
        const F level = Levels::level(g.x[i] * inverse);
        const F weighted = g.w[i] * level;
        s.lx += weighted * g.x[i];
        s.ll += weighted * level;
    }
    return s;
}

// The square error of d * level with the best levels for d.
template <class Levels, int N>
EDGELLM_INLINE F scaled_error(const Groups<N>& g, F d) {
    const F inverse = quotient(splat(1.0f), d);
    F error = splat(0.0f);
    for (int i = 0; i < N; ++i) {
        const F off = d * Levels::level(g.x[i] * inverse) - g.x[i];
        error += g.w[i] * off * off;
    }
    return error;
}

// Tries `steps` scales that put the value of largest magnitude on and around the outermost level of each
// side.
template <class Levels, int N>
F search_scale(const Groups<N>& g, int steps, float step) {
    F extreme = splat(0.0f);
    for (const F& value : g.x) extreme = lanes_abs(value) > lanes_abs(extreme) ? value : extreme;
    const F inverse_extreme = quotient(splat(1.0f), extreme);
    F best_d = extreme * (1.0f / Levels::kLow), best = splat(0.0f);
    // Maximizes lx^2 / ll, which is what the levels explain of the sum of squares.
    const auto consider = [&](F inverse) {
        const LevelSums s = level_sums<Levels>(g, inverse);
        const F d = quotient(s.lx, s.ll);
        const F explained = s.lx * d;
        const I better = explained > best;
        best = better ? explained : best;
        best_d = better ? d : best_d;
    };
    for (const float end : {Levels::kLow, Levels::kHigh}) {
        for (int i = -steps; i <= steps; ++i) {
            consider(inverse_extreme * (end * (1.0f + step * static_cast<float>(i))));
        }
    }
    for (int i = 0; i < 2; ++i) consider(quotient(splat(1.0f), best_d));
    return best_d;
}

// x ~ d * level + b with levels 0 .. top.
struct Affine {
    F d, b;
};

template <int top, int N>
EDGELLM_INLINE F affine_error(const Groups<N>& g, F d, F b) {
    const F inverse = quotient(splat(1.0f), d);
    F error = splat(0.0f);
    for (int i = 0; i < N; ++i) {
        const F off = d * clamp(nearest((g.x[i] - b) * inverse), 0, top) + b - g.x[i];
        error += g.w[i] * off * off;
    }
    return error;
}

// Tries ranges that leave out up to a share of the values' range at either end. negative: b must not be above
// zero.
template <int top, bool negative, int N>
Affine search_affine(const Groups<N>& g, int steps, float step) {
    F low = g.x[0], high = g.x[0];
    F sw = splat(0.0f), sx = splat(0.0f);
    for (int i = 0; i < N; ++i) {
        low = lanes_min(low, g.x[i]);
        high = lanes_max(high, g.x[i]);
        sw += g.w[i];
        sx += g.w[i] * g.x[i];
    }
    if (negative) low = lanes_min(low, splat(0.0f));
    const F range = high - low;
    Affine best{range * (1.0f / top), low};
    // What the levels explain of the sum of squares around zero: the error is that sum less this.
    F explained = splat(-__FLT_MAX__);
    const auto consider = [&](F inverse, F b) {
        const F start = splat(0.0f) - b * inverse;
        F sq = splat(0.0f), sqq = splat(0.0f), sqx = splat(0.0f);
        for (int i = 0; i < N; ++i) {
            const F q = clamp(nearest(g.x[i] * inverse + start), 0, top);
            const F weighted = g.w[i] * q;
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
    for (int below = -1; below < steps; ++below) {
        for (int above = -1; above < steps; ++above) {
            const float cut_low = step * static_cast<float>(below),
                        cut_high = step * static_cast<float>(above);
            const F inverse = quotient(splat(top / (1.0f - cut_low - cut_high)), range);
            consider(inverse, low + range * cut_low);
        }
    }
    for (int i = 0; i < 2; ++i) consider(quotient(splat(1.0f), best.d), best.b);
    return best;
}

// The same with b held at the lowest value, for values that already lie on evenly spaced levels.
template <int top, int N>
F search_range(const Groups<N>& g, F low, int steps, float step) {
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
            qq += g.w[k] * q * q;
            qx += g.w[k] * q * above;
        }
        const F d = quotient(qx, qq);
        const F error = affine_error<top>(g, d, low);
        best_d = error < best ? d : best_d;
        best = error < best ? error : best;
    }
    return best_d;
}

}  // namespace
}  // namespace edgellm
