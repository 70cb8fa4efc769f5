// SPDX-License-Identifier: MIT
#include "kernels/rows/rows.h"

namespace edgellm {

extern const RowKernels kRowScalar, kRowAvx2, kRowAvx512Vnni;

const RowKernels& row_kernels(Isa isa) {
    switch (isa) {
#if defined(__x86_64__)
        case Isa::kAvx2:
        case Isa::kAvxVnni:
            return kRowAvx2;
        case Isa::kAvx512Vnni:
            return kRowAvx512Vnni;
#endif
        default:
            return kRowScalar;
    }
}

}  // namespace edgellm
