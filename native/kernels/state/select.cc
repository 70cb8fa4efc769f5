// SPDX-License-Identifier: MIT
#include "kernels/state/state.h"

namespace edgellm {

extern const StateKernels kStateScalar, kStateAvx2, kStateAvx512Vnni;

const StateKernels& state_kernels(Isa isa) {
    switch (isa) {
#if defined(__x86_64__)
        case Isa::kAvx2:
        case Isa::kAvxVnni:
            return kStateAvx2;
        case Isa::kAvx512Vnni:
            return kStateAvx512Vnni;
#endif
        default:
            return kStateScalar;
    }
}

}  // namespace edgellm
