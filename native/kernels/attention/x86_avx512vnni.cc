// SPDX-License-Identifier: MIT
#if defined(__x86_64__)
#include "base/vec_avx512.h"
#include "kernels/attention/generic.h"

namespace edgellm {
extern const AttentionKernels kAttentionAvx512Vnni;
const AttentionKernels kAttentionAvx512Vnni = kKernels;
}  // namespace edgellm
#endif
