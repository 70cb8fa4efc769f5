// SPDX-License-Identifier: MIT
#include "base/by_isa.h"
#include "kernels/state/state.h"

namespace edgellm {

EDGELLM_STATE_SETS(EDGELLM_DECLARE, StateKernels, kState)

const StateKernels& state_kernels(Isa isa) {
    static constexpr ByIsa<StateKernels> table = {EDGELLM_STATE_SETS(EDGELLM_ENTRY, kState)};
    return table[isa];
}

}  // namespace edgellm
