// SPDX-License-Identifier: MIT
#include "base/vec_avx512.h"
#include "kernels/sampling/generic.h"

namespace edgellm {
extern const SamplingKernels kSamplingAvx512Vnni;
const SamplingKernels kSamplingAvx512Vnni = kKernels;
}  // namespace edgellm
