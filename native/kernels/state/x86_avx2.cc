// SPDX-License-Identifier: MIT
#include "base/vec_avx2.h"
#include "kernels/state/generic.h"

namespace edgellm {
extern const StateKernels kStateAvx2;
const StateKernels kStateAvx2 = kKernels;
}  // namespace edgellm
