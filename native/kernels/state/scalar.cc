// SPDX-License-Identifier: MIT
#include "base/vec_portable.h"
#include "kernels/state/generic.h"

namespace edgellm {
extern const StateKernels kStateScalar;
const StateKernels kStateScalar = kKernels;
}  // namespace edgellm
