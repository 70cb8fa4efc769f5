// SPDX-License-Identifier: MIT
#include "kernels/limits/x86_ymm.h"

namespace edgellm {
namespace {

struct AvxVnni : YmmLimits {
    static Ints dot(Ints sum, Bytes w, Bytes x) { return _mm256_dpbusd_avx_epi32(sum, w, x); }
};

}  // namespace

extern const LimitKernels kLimitsAvxVnni;
const LimitKernels kLimitsAvxVnni = make_limits<AvxVnni>();

}  // namespace edgellm
