// SPDX-License-Identifier: MIT
// One kernel table per instruction set that this build has.
#pragma once

#include "kernels/linear/linear.h"

namespace edgellm {

extern const LinearKernels kLinearScalar;
#if defined(__x86_64__)
extern const LinearKernels kLinearAvx2;
extern const LinearKernels kLinearAvxVnni;
extern const LinearKernels kLinearAvx512Vnni;
#endif

}  // namespace edgellm
