// SPDX-License-Identifier: MIT
#include "base/vec_avx2.h"
#include "kernels/sampling/generic.h"

namespace edgellm {
extern const SamplingKernels kSamplingAvx2;
const SamplingKernels kSamplingAvx2 = kKernels;
}  // namespace edgellm
