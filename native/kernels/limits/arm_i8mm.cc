// SPDX-License-Identifier: MIT
#include <arm_neon.h>

#include "base/vec_portable.h"
#include "kernels/limits/generic.h"

namespace edgellm {
namespace {

struct Products {
    using Codes = int8x16_t;
    using Sums = int32x4_t;
    static constexpr int kSums = 12;
    static constexpr size_t kMacs = 32;

    static Sums dot(Sums sum, Codes w, Codes x) { return vmmlaq_s32(sum, w, x); }
    template <class T>
    static void hide(T& v) {
        __asm__ volatile("" : "+w"(v));
    }
};

}  // namespace

extern const LimitKernels kLimitsI8mm;
const LimitKernels kLimitsI8mm = make_limits<Products>();

}  // namespace edgellm
