// SPDX-License-Identifier: MIT
#if defined(__x86_64__)
#include "base/vec_avx2.h"
#include "kernels/attention/generic.h"

namespace edgellm {
extern const AttentionKernels kAttentionAvx2;
const AttentionKernels kAttentionAvx2 = kKernels;
}  // namespace edgellm
#endif
