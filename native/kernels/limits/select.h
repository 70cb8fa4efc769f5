// SPDX-License-Identifier: MIT
// One table per instruction set that this build has.
#pragma once

#include "kernels/limits/limits.h"

namespace edgellm {

extern const LimitKernels kLimitsScalar;
#if defined(__x86_64__)
extern const LimitKernels kLimitsAvx2;
extern const LimitKernels kLimitsAvxVnni;
extern const LimitKernels kLimitsAvx512Vnni;
#endif

}  // namespace edgellm
