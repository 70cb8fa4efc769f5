// SPDX-License-Identifier: MIT
// Armv8.2 with dot products: Cortex-A55 and A76, Apple M1 and later cores.
#include "kernels/linear/arm_dotprod.h"

namespace edgellm {
namespace {

struct Dotprod : DotprodRegisters {
    using Lanes = Dotprod;
};

}  // namespace

EDGELLM_LINEAR_KERNELS(Dotprod, ArmEngine<Dotprod>)

}  // namespace edgellm
