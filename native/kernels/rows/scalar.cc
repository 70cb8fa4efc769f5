// SPDX-License-Identifier: MIT
#include "base/vec_portable.h"
#include "kernels/rows/generic.h"

namespace edgellm {
extern const RowKernels kRowScalar;
const RowKernels kRowScalar = kKernels;
}  // namespace edgellm
