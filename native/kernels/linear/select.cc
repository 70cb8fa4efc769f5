// SPDX-License-Identifier: MIT
#include "base/by_isa.h"
#include "kernels/linear/linear.h"

namespace edgellm {

EDGELLM_LINEAR_SETS(EDGELLM_DECLARE, LinearKernels, kLinear)

const LinearKernels& linear_kernels(Isa isa) {
    static constexpr ByIsa<LinearKernels> table = {EDGELLM_LINEAR_SETS(EDGELLM_ENTRY, kLinear)};
    return table[isa];
}

}  // namespace edgellm
