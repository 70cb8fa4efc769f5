// SPDX-License-Identifier: MIT
#include "base/vec_portable.h"
#include "kernels/attention/generic.h"

namespace edgellm {
extern const AttentionKernels kAttentionScalar;
const AttentionKernels kAttentionScalar = kKernels;
}  // namespace edgellm
