// SPDX-License-Identifier: MIT
#include "base/vec_avx2.h"
#include "kernels/limits/generic.h"

namespace edgellm {
namespace {

struct Products : InVectors {
    using Codes = __m256i;
    using Sums = __m256i;
    static constexpr int kSums = 12;
    static constexpr size_t kMacs = 32;

    static Sums dot(Sums sum, Codes w, Codes x) { return _mm256_dpbusd_avx_epi32(sum, w, x); }
};

}  // namespace

extern const LimitKernels kLimitsAvxVnni;
const LimitKernels kLimitsAvxVnni = make_limits<Products>();

}  // namespace edgellm
