// SPDX-License-Identifier: MIT
#include "base/by_isa.h"
#include "kernels/limits/limits.h"

namespace edgellm {

EDGELLM_LIMITS_SETS(EDGELLM_DECLARE, LimitKernels, kLimits)

const LimitKernels& limit_kernels(Isa isa) {
    static constexpr ByIsa<LimitKernels> table = {EDGELLM_LIMITS_SETS(EDGELLM_ENTRY, kLimits)};
    return table[isa];
}

}  // namespace edgellm
