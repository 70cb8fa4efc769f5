// SPDX-License-Identifier: MIT
// The vocabulary of vector code: vec_portable.h, vec_portable8.h, vec_avx2.h and vec_avx512.h each define one
// struct Vec of it, and vec_math.h makes its members free functions. Kernels and encoders are written over
// them in a generic.h that is compiled once per instruction set. The compiler turns vec_portable.h into SSE2
// or NEON, so a set needs a vec_*.h only where that is not good enough.
//
// Everything has internal linkage: a linker must never pick one file's copy for another.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>

#include "base/inline.h"

namespace edgellm {
namespace {

template <class V>
concept SimdVocabulary = requires(typename V::F32 x, typename V::I32 i, const float* floats,
                                  float* floats_out, const uint16_t* halves, uint16_t* halves_out,
                                  const int8_t* bytes, uint8_t* bytes_out, int16_t* words_out) {
    // Lanes of a vector: 4, 8 or 16.
    { V::kLanes } -> std::convertible_to<size_t>;
    // Vector registers of the set, from which tiles take their sizes.
    { V::kRegisters } -> std::convertible_to<size_t>;
    // True if add_pair_products is one or two instructions, so that attention in integers pays.
    { V::kMultipliesPairs } -> std::convertible_to<bool>;
    // Vectors of kLanes float, int32_t and uint32_t: the compiler's own, with its operators, or a Pair of
    // them. A comparison converts to an I32 whose lanes are -1 or 0, and (I32)x reinterprets.
    requires sizeof(typename V::F32) == 4 * V::kLanes && sizeof(typename V::I32) == 4 * V::kLanes &&
                     sizeof(typename V::U32) == 4 * V::kLanes;
    { x + x * x } -> std::same_as<typename V::F32>;
    // A compiler for Windows may call 32 bits long in it.
    { x < x } -> std::convertible_to<typename V::I32>;

    // One value in every lane.
    { V::splat(1.0f) } -> std::same_as<typename V::F32>;
    { V::splat_int(1) } -> std::same_as<typename V::I32>;
    // kLanes floats, unaligned.
    { V::load(floats) } -> std::same_as<typename V::F32>;
    { V::store(floats_out, x) } -> std::same_as<void>;
    // kLanes binary16 values, unaligned, as floats, exactly.
    { V::load_half(halves) } -> std::same_as<typename V::F32>;
    // Rounds to nearest even; what is beyond the range of binary16 becomes infinite.
    { V::store_half(halves_out, x) } -> std::same_as<void>;
    // kLanes int8_t values, unaligned, as floats.
    { V::load_int8(bytes) } -> std::same_as<typename V::F32>;
    // Lanes as int16_t, saturated.
    { V::store_int16(words_out, i) } -> std::same_as<void>;
    // Lowest byte of each lane.
    { V::store_bytes(bytes_out, i) } -> std::same_as<void>;
    // a * b + c: rounded once where the set has such an instruction, else twice.
    { V::fma(x, x, x) } -> std::same_as<typename V::F32>;
    // The second operand where either is NaN.
    { V::max(x, x) } -> std::same_as<typename V::F32>;
    { V::min(x, x) } -> std::same_as<typename V::F32>;
    // Lanes of the second operand where the mask, as comparisons make it, is -1, of the third where it is 0.
    { V::select(i, x, x) } -> std::same_as<typename V::F32>;
    { V::select(i, i, i) } -> std::same_as<typename V::I32>;
    // sum + x[0] * y[0] + x[1] * y[1] of each lane's two 16-bit integers, modulo 2^32.
    { V::add_pair_products(i, i, i) } -> std::same_as<typename V::I32>;
    // Lanes 1 0 3 2, and so on.
    { V::swap_pairs(x) } -> std::same_as<typename V::F32>;
    // p[0] p[0] p[1] p[1], and so on: kLanes / 2 values.
    { V::load_twice(floats) } -> std::same_as<typename V::F32>;
    // Sum of all lanes: halves are added to each other, then quarters, ..., so that sets agree where their
    // vectors do.
    { V::reduce_add(x) } -> std::same_as<float>;
    // Maximum of all lanes, none of which is NaN.
    { V::reduce_max(x) } -> std::same_as<float>;
    // Hides a vector's value from the compiler, at no cost.
    { V::hide(x) } -> std::same_as<void>;
    { V::hide(i) } -> std::same_as<void>;
};

}  // namespace
}  // namespace edgellm
