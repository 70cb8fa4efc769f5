// SPDX-License-Identifier: MIT
#include "kernels/sampling/sampling.h"

namespace edgellm {

extern const SamplingKernels kSamplingScalar, kSamplingAvx2, kSamplingAvx512Vnni;

const SamplingKernels& sampling_kernels(Isa isa) {
    switch (isa) {
#if defined(__x86_64__)
        case Isa::kAvx2:
        case Isa::kAvxVnni:
            return kSamplingAvx2;
        case Isa::kAvx512Vnni:
            return kSamplingAvx512Vnni;
#endif
        default:
            return kSamplingScalar;
    }
}

}  // namespace edgellm
