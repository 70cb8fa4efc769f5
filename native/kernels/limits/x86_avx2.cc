// SPDX-License-Identifier: MIT
#include "base/vec_avx2.h"
#include "kernels/limits/generic.h"

namespace edgellm {
namespace {

// Codes of 4 bits: eight products are summed in 16 bits, the most that stays exact, then in 32.
struct Products : InVectors {
    using Codes = __m256i;
    using Sums = __m256i;
    static constexpr int kSums = 10;
    static constexpr size_t kMacs = 8 * 32;

    static Sums dot(Sums sum, Codes w, Codes x) {
        __m256i product = _mm256_maddubs_epi16(w, x);
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
const LimitKernels kLimitsAvx2 = make_limits<Products>();

}  // namespace edgellm
