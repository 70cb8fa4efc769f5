// SPDX-License-Identifier: MIT
#include "base/vec_portable.h"
#include "kernels/limits/generic.h"

namespace edgellm {
namespace {

struct Products {
    using Codes = int64_t;
    using Sums = int32_t;
    static constexpr int kSums = 8;
    static constexpr size_t kMacs = 1;

    static Sums dot(Sums sum, Codes w, Codes x) {
        return sum + static_cast<int8_t>(w) * static_cast<int8_t>(x);
    }
    template <class T>
    static void hide(T& v) {
        __asm__ volatile("" : "+m"(v));
    }
};

}  // namespace

extern const LimitKernels kLimitsScalar;
const LimitKernels kLimitsScalar = make_limits<Products>();

}  // namespace edgellm
