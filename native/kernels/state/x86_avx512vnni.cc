// SPDX-License-Identifier: MIT
#include "base/vec_avx512.h"
#include "kernels/state/generic.h"

namespace edgellm {
extern const StateKernels kStateAvx512Vnni;
const StateKernels kStateAvx512Vnni = kKernels;
}  // namespace edgellm
