// SPDX-License-Identifier: MIT
#include "kernels/limits/arm.h"

namespace edgellm {
namespace {

struct Products : NeonProducts {
    static constexpr size_t kMacs = 32;
    static Sums dot(Sums sum, Codes w, Codes x) { return vmmlaq_s32(sum, w, x); }
};

}  // namespace

extern const LimitKernels kLimitsI8mm;
const LimitKernels kLimitsI8mm = make_limits<Products>();

}  // namespace edgellm
