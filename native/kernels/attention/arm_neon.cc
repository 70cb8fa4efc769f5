// SPDX-License-Identifier: MIT
#include "base/vec_neon.h"
#include "kernels/attention/generic.h"

namespace edgellm {
extern const AttentionKernels kAttentionNeon;
const AttentionKernels kAttentionNeon = kKernels;
}  // namespace edgellm
