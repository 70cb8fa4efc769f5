// SPDX-License-Identifier: MIT
#include "base/vec_avx2.h"
#include "kernels/attention/generic.h"

namespace edgellm {
extern const AttentionKernels kAttentionAvx2;
const AttentionKernels kAttentionAvx2 = kKernels;
}  // namespace edgellm
