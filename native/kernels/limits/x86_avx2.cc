// SPDX-License-Identifier: MIT
#include "kernels/limits/x86_ymm.h"

namespace edgellm {
namespace {

// Products of codes of 4 bits: eight sums of 16 bits, then one of 32, the most that stays exact.
struct Avx2 : YmmLimits {
    static constexpr int kSums = 10, kMacs = 8 * 32;

    static Ints dot(Ints sum, Bytes w, Bytes x) {
        Ints product = _mm256_maddubs_epi16(w, x);
#pragma GCC unroll 8
        for (int i = 1; i < 8; ++i) {
            hide(w);
            product = _mm256_add_epi16(product, _mm256_maddubs_epi16(w, x));
        }
        hide(w);
        return _mm256_add_epi32(sum, _mm256_madd_epi16(product, _mm256_set1_epi16(1)));
    }
};

}  // namespace

extern const LimitKernels kLimitsAvx2;
const LimitKernels kLimitsAvx2 = make_limits<Avx2>();

}  // namespace edgellm
