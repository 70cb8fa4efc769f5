// SPDX-License-Identifier: MIT
#include "base/vec_avx2.h"
#include "kernels/rows/generic.h"

namespace edgellm {
extern const RowKernels kRowAvx2;
const RowKernels kRowAvx2 = kKernels;
}  // namespace edgellm
