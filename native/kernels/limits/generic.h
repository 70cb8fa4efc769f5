// SPDX-License-Identifier: MIT
// The body of the limit loops over a set of primitives S, instantiated by one file per instruction set:
//   Bytes, Ints, Floats      registers; kMacs, kFloatMacs: multiply-adds of one step
//   kSums                    independent sums, enough to hide the latency of a step and few enough for the
//   registers
// An empty asm after each step keeps the compiler from seeing that nothing changes.
#pragma once

#include "kernels/limits/limits.h"

namespace edgellm {
namespace {

template <class S>
uint64_t read_all(const uint8_t* data, size_t n_bytes) {
    constexpr size_t kAhead = 1280;
    // Two lines a turn: four at once read a quarter less.
    constexpr size_t kTurn = 128, kLoads = kTurn / sizeof(typename S::Bytes);
    typename S::Bytes seen[2] = {S::load(data), S::load(data)};
    for (size_t i = 0; i < n_bytes; i += kTurn) {
        for (size_t line = 0; line < kTurn; line += 64) __builtin_prefetch(data + i + kAhead + line);
#pragma GCC unroll 16
        for (size_t j = 0; j < kLoads; ++j)
            seen[j % 2] = S::bit_or(seen[j % 2], S::load(data + i + j * sizeof(seen[0])));
    }
    return S::first(S::bit_or(seen[0], seen[1]));
}

template <class S>
size_t multiply_int8(size_t n_rounds) {
    typename S::Ints sum[S::kSums] = {};
    typename S::Bytes w = {}, x = {};
    S::hide(w);
    S::hide(x);
    for (size_t i = 0; i < n_rounds; ++i) {
#pragma GCC unroll 32
        for (int j = 0; j < S::kSums; ++j) {
            sum[j] = S::dot(sum[j], w, x);
            S::hide(sum[j]);
        }
    }
    return n_rounds * S::kSums * S::kMacs;
}

template <class S>
size_t multiply_floats(size_t n_rounds) {
    typename S::Floats sum[S::kSums] = {};
    typename S::Floats w = {}, x = {};
    S::hide(w);
    S::hide(x);
    for (size_t i = 0; i < n_rounds; ++i) {
#pragma GCC unroll 32
        for (int j = 0; j < S::kSums; ++j) {
            sum[j] = S::fma(w, x, sum[j]);
            S::hide(sum[j]);
        }
    }
    return n_rounds * S::kSums * S::kFloatMacs;
}

template <class S>
constexpr LimitKernels make_limits() {
    return {read_all<S>, multiply_int8<S>, multiply_floats<S>};
}

}  // namespace
}  // namespace edgellm
