// SPDX-License-Identifier: MIT
// Two vectors as one of twice the lanes, with the operators of a vector. The compiler would keep a vector
// wider than the set's registers in memory, and compare it lane by lane.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "base/vec.h"

namespace edgellm {
namespace {

template <class V>
struct Pair {
    V low, high;

    EDGELLM_INLINE auto operator[](size_t i) const {
        constexpr size_t half = sizeof(V) / 4;
        return i < half ? low[i] : high[i - half];
    }
    // Reinterprets the bits.
    template <class W>
    EDGELLM_INLINE explicit operator Pair<W>() const {
        return {(W)low, (W)high};
    }
    EDGELLM_INLINE Pair operator-() const { return {-low, -high}; }
};

template <class V>
EDGELLM_INLINE Pair<V> pair_of(V low, V high) {
    return {low, high};
}

// Lanes of a comparison. A compiler for Windows calls them long, which has 32 bits there.
template <class V>
struct Mask {
    typedef int32_t Type __attribute__((vector_size(sizeof(V))));
};

#define EDGELLM_PAIR_OPERATOR(op, ...)                                              \
    template <class V>                                                              \
    EDGELLM_INLINE auto operator op(Pair<V> a, Pair<V> b) {                         \
        return pair_of(__VA_ARGS__(a.low op b.low), __VA_ARGS__(a.high op b.high)); \
    }                                                                               \
    template <class V, class S>                                                     \
        requires std::is_arithmetic_v<S>                                            \
    EDGELLM_INLINE auto operator op(Pair<V> a, S b) {                               \
        return pair_of(__VA_ARGS__(a.low op b), __VA_ARGS__(a.high op b));          \
    }                                                                               \
    template <class V, class S>                                                     \
        requires std::is_arithmetic_v<S>                                            \
    EDGELLM_INLINE auto operator op(S a, Pair<V> b) {                               \
        return pair_of(__VA_ARGS__(a op b.low), __VA_ARGS__(a op b.high));          \
    }
#define EDGELLM_PAIR_COMPARISON(op) EDGELLM_PAIR_OPERATOR(op, (typename Mask<V>::Type))
#define EDGELLM_PAIR_ASSIGNMENT(op)                              \
    template <class V, class T>                                  \
    EDGELLM_INLINE Pair<V>& operator op## = (Pair<V> & a, T b) { \
        return a = a op b;                                       \
    }
EDGELLM_PAIR_OPERATOR(+)
EDGELLM_PAIR_OPERATOR(-)
EDGELLM_PAIR_OPERATOR(*)
EDGELLM_PAIR_OPERATOR(/)
EDGELLM_PAIR_OPERATOR(&)
EDGELLM_PAIR_OPERATOR(|)
EDGELLM_PAIR_OPERATOR(<<)
EDGELLM_PAIR_OPERATOR(>>)
EDGELLM_PAIR_COMPARISON(<)
EDGELLM_PAIR_COMPARISON(<=)
EDGELLM_PAIR_COMPARISON(>)
EDGELLM_PAIR_COMPARISON(>=)
EDGELLM_PAIR_COMPARISON(==)
EDGELLM_PAIR_ASSIGNMENT(+)
EDGELLM_PAIR_ASSIGNMENT(-)
#undef EDGELLM_PAIR_COMPARISON
#undef EDGELLM_PAIR_OPERATOR
#undef EDGELLM_PAIR_ASSIGNMENT

// The vocabulary of vec.h over pairs of H's vectors.
template <class H>
struct PairVec {
    static constexpr size_t kHalf = H::kLanes, kLanes = 2 * kHalf;
    static constexpr bool kMultipliesPairs = H::kMultipliesPairs;
    static constexpr size_t kRegisters = H::kRegisters / 2;
    using F32 = Pair<typename H::F32>;
    using I32 = Pair<typename H::I32>;
    using U32 = Pair<typename H::U32>;

    EDGELLM_INLINE static F32 splat(float x) { return {H::splat(x), H::splat(x)}; }
    EDGELLM_INLINE static I32 splat_int(int32_t x) { return {H::splat_int(x), H::splat_int(x)}; }

    EDGELLM_INLINE static F32 load(const float* p) { return {H::load(p), H::load(p + kHalf)}; }
    EDGELLM_INLINE static void store(float* p, F32 v) {
        H::store(p, v.low);
        H::store(p + kHalf, v.high);
    }
    EDGELLM_INLINE static F32 load_half(const uint16_t* p) {
        return {H::load_half(p), H::load_half(p + kHalf)};
    }
    EDGELLM_INLINE static void store_half(uint16_t* p, F32 v) {
        H::store_half(p, v.low);
        H::store_half(p + kHalf, v.high);
    }
    EDGELLM_INLINE static F32 load_int8(const int8_t* p) {
        return {H::load_int8(p), H::load_int8(p + kHalf)};
    }
    EDGELLM_INLINE static void store_int16(int16_t* p, I32 v) {
        H::store_int16(p, v.low);
        H::store_int16(p + kHalf, v.high);
    }
    EDGELLM_INLINE static void store_bytes(uint8_t* p, I32 v) {
        H::store_bytes(p, v.low);
        H::store_bytes(p + kHalf, v.high);
    }

    EDGELLM_INLINE static F32 fma(F32 a, F32 b, F32 c) {
        return {H::fma(a.low, b.low, c.low), H::fma(a.high, b.high, c.high)};
    }
    EDGELLM_INLINE static F32 max(F32 a, F32 b) { return {H::max(a.low, b.low), H::max(a.high, b.high)}; }
    EDGELLM_INLINE static F32 min(F32 a, F32 b) { return {H::min(a.low, b.low), H::min(a.high, b.high)}; }
    template <class V>
    EDGELLM_INLINE static V select(I32 mask, V a, V b) {
        return {H::select(mask.low, a.low, b.low), H::select(mask.high, a.high, b.high)};
    }
    EDGELLM_INLINE static I32 add_pair_products(I32 sum, I32 x, I32 y) {
        return {H::add_pair_products(sum.low, x.low, y.low), H::add_pair_products(sum.high, x.high, y.high)};
    }

    EDGELLM_INLINE static F32 swap_pairs(F32 v) { return {H::swap_pairs(v.low), H::swap_pairs(v.high)}; }
    EDGELLM_INLINE static F32 load_twice(const float* p) {
        return {H::load_twice(p), H::load_twice(p + kHalf / 2)};
    }
    EDGELLM_INLINE static float reduce_add(F32 v) { return H::reduce_add(v.low + v.high); }
    EDGELLM_INLINE static float reduce_max(F32 v) { return H::reduce_max(H::max(v.low, v.high)); }

    template <class T>
    EDGELLM_INLINE static void hide(T& v) {
        H::hide(v.low);
        H::hide(v.high);
    }
};

}  // namespace
}  // namespace edgellm
