// SPDX-License-Identifier: MIT
// Bodies of the limit loops over the lanes of a vec_*.h, included before this file.
#pragma once

#include <concepts>

#include "base/vec_math.h"
#include "kernels/limits/limits.h"

namespace edgellm {
namespace {

// Products of 8-bit values, as the set's linear kernels sum them. Read and float loops need no more than Vec.
template <class P>
concept ByteProducts = requires(typename P::Codes codes, typename P::Sums sums) {
    // Independent sums: enough to hide the latency of a step, few enough for the registers.
    { P::kSums } -> std::convertible_to<int>;
    // Multiply-adds of one dot.
    { P::kMacs } -> std::convertible_to<size_t>;
    // sums + products of codes.
    { P::dot(sums, codes, codes) } -> std::same_as<typename P::Sums>;
    // Hides a value from the compiler, so that it does not see that nothing changes.
    { P::hide(codes) } -> std::same_as<void>;
    { P::hide(sums) } -> std::same_as<void>;
};

// hide() of products in vector registers.
struct InVectors {
    template <class T>
    static void hide(T& v) {
        Vec::hide(v);
    }
};

EDGELLM_INLINE I32 load_bytes(const uint8_t* p) {
    I32 v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

uint64_t read_all(const uint8_t* data, size_t n_bytes) {
    constexpr size_t kAhead = 1280;
    // Two lines a turn: four at once read a quarter less.
    constexpr size_t kTurn = 128, kLoads = kTurn / sizeof(I32);
    I32 seen[2] = {load_bytes(data), load_bytes(data)};
    for (size_t i = 0; i < n_bytes; i += kTurn) {
        for (size_t line = 0; line < kTurn; line += 64) __builtin_prefetch(data + i + kAhead + line);
#pragma GCC unroll 16
        for (size_t j = 0; j < kLoads; ++j) seen[j % 2] |= load_bytes(data + i + j * sizeof(I32));
    }
    const I32 all = seen[0] | seen[1];
    uint64_t first;
    __builtin_memcpy(&first, &all, sizeof first);
    return first;
}

template <ByteProducts P>
size_t multiply_int8(size_t n_rounds) {
    typename P::Sums sum[P::kSums] = {};
    typename P::Codes w = {}, x = {};
    P::hide(w);
    P::hide(x);
    for (size_t i = 0; i < n_rounds; ++i) {
#pragma GCC unroll 32
        for (int j = 0; j < P::kSums; ++j) {
            sum[j] = P::dot(sum[j], w, x);
            P::hide(sum[j]);
        }
    }
    return n_rounds * P::kSums * P::kMacs;
}

size_t multiply_floats(size_t n_rounds) {
    constexpr size_t kSums = kRegisters * 3 / 4;
    F32 sum[kSums] = {};
    F32 w = {}, x = {};
    Vec::hide(w);
    Vec::hide(x);
    for (size_t i = 0; i < n_rounds; ++i) {
#pragma GCC unroll 32
        for (size_t j = 0; j < kSums; ++j) {
            sum[j] = fma(w, x, sum[j]);
            Vec::hide(sum[j]);
        }
    }
    return n_rounds * kSums * kLanes;
}

template <ByteProducts P>
constexpr LimitKernels make_limits() {
    return {read_all, multiply_int8<P>, multiply_floats};
}

}  // namespace
}  // namespace edgellm
