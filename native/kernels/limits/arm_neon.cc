// SPDX-License-Identifier: MIT
#include <arm_neon.h>

#include "base/vec_portable.h"
#include "kernels/limits/generic.h"

namespace edgellm {
namespace {

struct Products {
    using Codes = int8x8_t;
    using Sums = int16x8_t;
    static constexpr int kSums = 12;
    static constexpr size_t kMacs = 8;

    static Sums dot(Sums sum, Codes w, Codes x) { return vmlal_s8(sum, w, x); }
    template <class T>
    static void hide(T& v) {
        __asm__ volatile("" : "+w"(v));
    }
};

}  // namespace

extern const LimitKernels kLimitsNeon;
const LimitKernels kLimitsNeon = make_limits<Products>();

}  // namespace edgellm
