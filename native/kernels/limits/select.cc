// SPDX-License-Identifier: MIT
#include "kernels/limits/select.h"

namespace edgellm {

const LimitKernels& limit_kernels(Isa isa) {
    switch (isa) {
#if defined(__x86_64__)
        case Isa::kAvx2:
            return kLimitsAvx2;
        case Isa::kAvxVnni:
            return kLimitsAvxVnni;
        case Isa::kAvx512Vnni:
            return kLimitsAvx512Vnni;
#endif
        default:
            return kLimitsScalar;
    }
}

}  // namespace edgellm
