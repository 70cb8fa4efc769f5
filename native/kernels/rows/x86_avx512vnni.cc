// SPDX-License-Identifier: MIT
#include "base/vec_avx512.h"
#include "kernels/rows/generic.h"

namespace edgellm {
extern const RowKernels kRowAvx512Vnni;
const RowKernels kRowAvx512Vnni = kKernels;
}  // namespace edgellm
