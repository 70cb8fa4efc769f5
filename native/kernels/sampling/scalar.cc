// SPDX-License-Identifier: MIT
#include "base/vec_portable.h"
#include "kernels/sampling/generic.h"

namespace edgellm {
extern const SamplingKernels kSamplingScalar;
const SamplingKernels kSamplingScalar = kKernels;
}  // namespace edgellm
