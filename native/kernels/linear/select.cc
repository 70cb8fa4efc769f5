// SPDX-License-Identifier: MIT
#include "kernels/linear/select.h"

namespace edgellm {

const LinearKernels& linear_kernels(Isa isa) {
    switch (isa) {
#if defined(__x86_64__)
        case Isa::kAvx2:
            return kLinearAvx2;
        case Isa::kAvxVnni:
            return kLinearAvxVnni;
        case Isa::kAvx512Vnni:
            return kLinearAvx512Vnni;
#endif
        default:
            return kLinearScalar;
    }
}

}  // namespace edgellm
