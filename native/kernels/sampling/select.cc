// SPDX-License-Identifier: MIT
#include "base/by_isa.h"
#include "kernels/sampling/sampling.h"

namespace edgellm {

EDGELLM_SAMPLING_SETS(EDGELLM_DECLARE, SamplingKernels, kSampling)

const SamplingKernels& sampling_kernels(Isa isa) {
    static constexpr ByIsa<SamplingKernels> table = {EDGELLM_SAMPLING_SETS(EDGELLM_ENTRY, kSampling)};
    return table[isa];
}

}  // namespace edgellm
