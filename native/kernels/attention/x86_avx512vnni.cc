// SPDX-License-Identifier: MIT
#include "base/vec_avx512.h"
#include "kernels/attention/generic.h"

namespace edgellm {
extern const AttentionKernels kAttentionAvx512Vnni;
const AttentionKernels kAttentionAvx512Vnni = kKernels;
}  // namespace edgellm
