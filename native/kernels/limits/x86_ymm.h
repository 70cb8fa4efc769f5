// SPDX-License-Identifier: MIT
// What the sets of 256-bit registers share.
#pragma once

#include <immintrin.h>

#include "kernels/limits/generic.h"

namespace edgellm {
namespace {

struct YmmLimits {
    using Bytes = __m256i;
    using Ints = __m256i;
    using Floats = __m256;
    static constexpr int kSums = 12, kMacs = 32, kFloatMacs = 8;

    static Bytes load(const uint8_t* p) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(p)); }
    static Bytes bit_or(Bytes a, Bytes b) { return _mm256_or_si256(a, b); }
    static uint64_t first(Bytes a) { return static_cast<uint64_t>(_mm256_extract_epi64(a, 0)); }
    static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
    template <class T>
    static void hide(T& v) {
        __asm__ volatile("" : "+x"(v));
    }
};

}  // namespace
}  // namespace edgellm
