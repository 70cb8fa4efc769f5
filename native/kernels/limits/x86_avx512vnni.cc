// SPDX-License-Identifier: MIT
#include <immintrin.h>

#include "kernels/limits/generic.h"

namespace edgellm {
namespace {

struct Avx512Vnni {
    using Bytes = __m512i;
    using Ints = __m512i;
    using Floats = __m512;
    static constexpr int kSums = 24, kMacs = 64, kFloatMacs = 16;

    static Bytes load(const uint8_t* p) { return _mm512_load_si512(p); }
    static Bytes bit_or(Bytes a, Bytes b) { return _mm512_or_si512(a, b); }
    static uint64_t first(Bytes a) {
        return static_cast<uint64_t>(_mm_cvtsi128_si64(_mm512_castsi512_si128(a)));
    }
    static Ints dot(Ints sum, Bytes w, Bytes x) { return _mm512_dpbusd_epi32(sum, w, x); }
    static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
    template <class T>
    static void hide(T& v) {
        __asm__ volatile("" : "+v"(v));
    }
};

}  // namespace

extern const LimitKernels kLimitsAvx512Vnni;
const LimitKernels kLimitsAvx512Vnni = make_limits<Avx512Vnni>();

}  // namespace edgellm
