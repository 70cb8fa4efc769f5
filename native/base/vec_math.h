// SPDX-License-Identifier: MIT
// The vocabulary of vec.h as free functions, and elementary functions over it of a few units in the last
// place. Include a vec_*.h first.
//
// Polynomials are minimax fits of relative error; the bound is given at each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

namespace edgellm {
namespace {

using F32 = Vec::F32;
using I32 = Vec::I32;
using U32 = Vec::U32;
constexpr size_t kLanes = Vec::kLanes;
constexpr size_t kRegisters = Vec::kRegisters;
constexpr bool kMultipliesPairs = Vec::kMultipliesPairs;

EDGELLM_INLINE F32 splat(float x) {
    return Vec::splat(x);
}
EDGELLM_INLINE I32 splat_int(int32_t x) {
    return Vec::splat_int(x);
}
EDGELLM_INLINE F32 load(const float* p) {
    return Vec::load(p);
}
EDGELLM_INLINE void store(float* p, F32 v) {
    Vec::store(p, v);
}
EDGELLM_INLINE F32 load_half(const uint16_t* p) {
    return Vec::load_half(p);
}
EDGELLM_INLINE void store_half(uint16_t* p, F32 v) {
    Vec::store_half(p, v);
}
EDGELLM_INLINE F32 load_int8(const int8_t* p) {
    return Vec::load_int8(p);
}
EDGELLM_INLINE void store_int16(int16_t* p, I32 v) {
    Vec::store_int16(p, v);
}
EDGELLM_INLINE void store_bytes(uint8_t* p, I32 v) {
    Vec::store_bytes(p, v);
}
EDGELLM_INLINE F32 fma(F32 a, F32 b, F32 c) {
    return Vec::fma(a, b, c);
}
EDGELLM_INLINE F32 max(F32 a, F32 b) {
    return Vec::max(a, b);
}
EDGELLM_INLINE F32 min(F32 a, F32 b) {
    return Vec::min(a, b);
}
EDGELLM_INLINE F32 select(I32 mask, F32 a, F32 b) {
    return Vec::select(mask, a, b);
}
EDGELLM_INLINE I32 select(I32 mask, I32 a, I32 b) {
    return Vec::select(mask, a, b);
}
EDGELLM_INLINE I32 add_pair_products(I32 sum, I32 x, I32 y) {
    return Vec::add_pair_products(sum, x, y);
}
EDGELLM_INLINE F32 swap_pairs(F32 v) {
    return Vec::swap_pairs(v);
}
EDGELLM_INLINE F32 load_twice(const float* p) {
    return Vec::load_twice(p);
}
EDGELLM_INLINE float reduce_add(F32 v) {
    return Vec::reduce_add(v);
}
EDGELLM_INLINE float reduce_max(F32 v) {
    return Vec::reduce_max(v);
}

#define EDGELLM_INLINE_LAMBDA __attribute__((always_inline))

template <class F, size_t... I>
EDGELLM_INLINE void unrolled(std::index_sequence<I...>, F f) {
    (f(std::integral_constant<size_t, I>()), ...);
}
// f(0) ... f(N - 1) with constant arguments: arrays indexed by them become registers, on every compiler.
template <size_t N, class F>
EDGELLM_INLINE void unrolled(F f) {
    unrolled(std::make_index_sequence<N>(), f);
}

EDGELLM_INLINE F32 negative_infinity() {
    return splat(-__builtin_inff());
}

// The first n < kLanes values of p, `fill` in the other lanes.
EDGELLM_INLINE F32 load_part(const float* p, size_t n, float fill = 0.0f) {
    alignas(64) float lanes[kLanes];
    for (size_t i = 0; i < kLanes; ++i) lanes[i] = fill;
    __builtin_memcpy(lanes, p, n * sizeof(float));
    return load(lanes);
}
EDGELLM_INLINE void store_part(float* p, F32 v, size_t n) {
    alignas(64) float lanes[kLanes];
    store(lanes, v);
    __builtin_memcpy(p, lanes, n * sizeof(float));
}

// The first `count` <= kLanes values of p, 0 in the other lanes.
EDGELLM_INLINE F32 load_count(const float* p, size_t count) {
    return count == kLanes ? load(p) : load_part(p, count);
}
EDGELLM_INLINE void store_count(float* p, F32 v, size_t count) {
    if (count == kLanes)
        store(p, v);
    else
        store_part(p, v, count);
}

// f(i, count) for each vector of n values; count < kLanes only for the last.
template <class F>
EDGELLM_INLINE void each_vector(size_t n, F f) {
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) f(i, kLanes);
    if (i < n) f(i, n - i);
}

EDGELLM_INLINE F32 absolute(F32 x) {
    return (F32)((I32)x & 0x7fffffff);
}
// x within [low, high]; NaN becomes low.
EDGELLM_INLINE F32 clamp(F32 x, float low, float high) {
    return min(max(x, splat(low)), splat(high));
}
// a / b, 0 where b is 0.
EDGELLM_INLINE F32 quotient(F32 a, F32 b) {
    const I32 zero = b == splat(0.0f);
    return select(zero, splat(0.0f), a / select(zero, splat(1.0f), b));
}
// The nearest binary16 number; infinite beyond their range.
EDGELLM_INLINE F32 round_to_half(F32 x) {
    uint16_t halves[kLanes];
    store_half(halves, x);
    return load_half(halves);
}
// x within [-limit, limit]; NaN stays NaN.
EDGELLM_INLINE F32 clamp_magnitude(F32 x, float limit) {
    return max(splat(-limit), min(splat(limit), x));
}

// Adding 1.5 * 2^23 rounds |x| < 2^22 to the nearest integer, ties to even, and leaves it in the low bits.
// `nearest` leaves larger values large.
constexpr float kRoundingShift = 12582912.0f;
EDGELLM_INLINE F32 nearest(F32 x) {
    return (x + splat(kRoundingShift)) - splat(kRoundingShift);
}
EDGELLM_INLINE I32 nearest_int(F32 x) {
    return (I32)(x + splat(kRoundingShift)) - (I32)splat(kRoundingShift);
}
// nearest_int(x * factor), rounded once.
EDGELLM_INLINE I32 nearest_int_product(F32 x, F32 factor) {
    return (I32)fma(x, factor, splat(kRoundingShift)) - (I32)splat(kRoundingShift);
}

EDGELLM_INLINE F32 copysign(F32 magnitude, F32 sign) {
    return (F32)((I32)magnitude | ((I32)sign & static_cast<int32_t>(0x80000000u)));
}

constexpr float kExpUnderflow = -87.33654f;  // ln(2^-126): below, exp is 0
constexpr float kExpOverflow = 88.72283f;    // ln(FLT_MAX): above, exp is infinite

// x = n ln 2 + r, |r| <= ln 2 / 2; returns e^r (relative error 3e-9 before rounding) and n
// modulo 2^32; n means nothing where x is out of range.
EDGELLM_INLINE F32 exp_reduced(F32 x, U32* n) {
    // Adding 1.5 * 2^23 leaves round(x / ln 2) in the low mantissa bits.
    const F32 magic = splat(12582912.0f);
    const F32 shifted = fma(x, splat(1.44269504f), magic);
    const F32 whole = shifted - magic;
    *n = (U32)shifted - (U32)magic;
    F32 r = fma(whole, splat(-0.693359375f), x);  // ln 2 in two parts, the first exact in 9 bits
    r = fma(whole, splat(2.12194440e-4f), r);
    F32 p = fma(splat(1.381446476e-3f), r, splat(8.368780623e-3f));
    p = fma(p, r, splat(4.166839426e-2f));
    p = fma(p, r, splat(1.666652011e-1f));
    p = fma(p, r, splat(4.999999341e-1f));
    return fma(r * r, p, r) + 1.0f;
}

// For x <= 0, -infinity included; NaN stays NaN.
EDGELLM_INLINE F32 exp_nonpositive(F32 x) {
    U32 n;
    const F32 p = exp_reduced(x, &n);
    const F32 result = p * (F32)((n + 127) << 23);
    return select(x < splat(kExpUnderflow), splat(0.0f), result);
}

EDGELLM_INLINE F32 exp(F32 x) {
    U32 n;
    const F32 p = exp_reduced(x, &n);
    const F32 result = (F32)((U32)p + (n << 23));
    const F32 bounded = select(x < splat(kExpUnderflow), splat(0.0f), result);
    // x + infinity: infinite for large x, NaN for NaN.
    return select(x <= splat(kExpOverflow), bounded, x + splat(__builtin_inff()));
}

// 2^x for x <= 1, relative error 9e-8 before rounding; 2^-126 for what is less than that. NaN stays NaN.
EDGELLM_INLINE F32 exp2_bounded(F32 x) {
    x = max(splat(-126.0f), x);
    const F32 magic = splat(12582912.0f + 127.0f);  // and the exponent's bias
    const F32 shifted = x + magic;
    const F32 r = x - (shifted - magic);
    F32 p = fma(splat(1.326472731e-3f), r, splat(9.671512991e-3f));
    p = fma(p, r, splat(5.550733581e-2f));
    p = fma(p, r, splat(2.402224243e-1f));
    p = fma(p, r, splat(6.931470037e-1f));
    return fma(p, r, splat(1.0f)) * (F32)((U32)shifted << 23);
}

EDGELLM_INLINE float exp2_bounded_1(float x) {
    return exp2_bounded(splat(x))[0];
}

EDGELLM_INLINE F32 sigmoid(F32 x) {
    return splat(1.0f) / (exp(-x) + 1.0f);
}

EDGELLM_INLINE F32 tanh(F32 x) {
    const F32 a = absolute(x);
    // |x| < 0.625: x + x^3 P(x^2), relative error 5e-9; else 1 - 2 / (e^2|x| + 1).
    const F32 s = x * x;
    F32 p = fma(splat(-5.704978361e-3f), s, splat(2.063907873e-2f));
    p = fma(p, s, splat(-5.373971215e-2f));
    p = fma(p, s, splat(1.333144216e-1f));
    p = fma(p, s, splat(-3.333328194e-1f));
    const F32 small = fma(p * s, x, x);
    const F32 large = copysign(splat(1.0f) - splat(2.0f) / (exp(a + a) + 1.0f), x);
    return select(a < splat(0.625f), small, large);
}

// The normal distribution's probability of less than x: erfc(-x / sqrt 2) / 2, accurate in the lower tail.
EDGELLM_INLINE F32 normal_cdf(F32 x) {
    const F32 z = absolute(x) * 0.707106781f;
    // z < 1: erf z = z P(z^2), relative error 2e-9.
    const F32 s = z * z;
    F32 p = fma(splat(7.853857726e-5f), s, splat(-8.010192527e-4f));
    p = fma(p, s, splat(5.188327561e-3f));
    p = fma(p, s, splat(-2.685381187e-2f));
    p = fma(p, s, splat(1.128358515e-1f));
    p = fma(p, s, splat(-3.761262582e-1f));
    p = fma(p, s, splat(1.128379166f));
    const F32 center = fma(copysign(z, x) * p, splat(0.5f), splat(0.5f));
    // z >= 1: erfc z = exp(-z^2) t P(t), t = 1 / (z + 2), relative error 2e-8. z^2 = x^2 / 2 is split so that
    // its rounding does not show in the tail: h has few bits, h^2 is exact.
    const F32 h = (F32)((I32)absolute(x) & static_cast<int32_t>(0xfffff000u));
    const F32 low = (absolute(x) - h) * (absolute(x) + h);
    const F32 e = exp_nonpositive(h * h * -0.5f) * exp_nonpositive(low * -0.5f);
    const F32 t = splat(1.0f) / (z + 2.0f);
    F32 q = fma(splat(23.59086940f), t, splat(-28.43749056f));
    q = fma(q, t, splat(4.943109277f));
    q = fma(q, t, splat(2.067194108f));
    q = fma(q, t, splat(2.837461327f));
    q = fma(q, t, splat(1.978381592f));
    q = fma(q, t, splat(1.127992328f));
    q = fma(q, t, splat(0.5642010735f));
    const F32 lower = e * t * q * 0.5f;
    const F32 tail = select(x > splat(0.0f), splat(1.0f) - lower, lower);
    return select(z < splat(1.0f), center, tail);
}

}  // namespace
}  // namespace edgellm
