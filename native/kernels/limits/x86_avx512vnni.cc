// SPDX-License-Identifier: MIT
#include "base/vec_avx512.h"
#include "kernels/limits/generic.h"

namespace edgellm {
namespace {

struct Products : InVectors {
    using Codes = __m512i;
    using Sums = __m512i;
    static constexpr int kSums = 24;
    static constexpr size_t kMacs = 64;

    static Sums dot(Sums sum, Codes w, Codes x) { return _mm512_dpbusd_epi32(sum, w, x); }
};

}  // namespace

extern const LimitKernels kLimitsAvx512Vnni;
const LimitKernels kLimitsAvx512Vnni = make_limits<Products>();

}  // namespace edgellm
