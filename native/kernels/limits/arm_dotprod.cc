// SPDX-License-Identifier: MIT
#include "kernels/limits/arm.h"

namespace edgellm {
namespace {

struct Products : NeonProducts {
    static constexpr size_t kMacs = 16;
    static Sums dot(Sums sum, Codes w, Codes x) { return vdotq_s32(sum, w, x); }
};

}  // namespace

extern const LimitKernels kLimitsDotprod;
const LimitKernels kLimitsDotprod = make_limits<Products>();

}  // namespace edgellm
