// SPDX-License-Identifier: MIT
#if defined(__AVX2__)

#include "kernels/limits/x86_ymm.h"

namespace edgellm {
namespace {

struct Avx2 : YmmLimits {
    // Without the widening that real sums need now and then.
    static Ints dot(Ints sum, Bytes w, Bytes x) {
        hide(w);
        return _mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x));
    }
};

}  // namespace

const LimitKernels kLimitsAvx2 = make_limits<Avx2>();

}  // namespace edgellm

#endif
