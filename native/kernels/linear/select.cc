// SPDX-License-Identifier: MIT
#include <array>

#include "base/by_isa.h"
#include "kernels/linear/linear.h"
#include "kernels/linear/parts.h"

namespace edgellm {
namespace {

constexpr auto kPartOf = [] {
    std::array<uint8_t, kLinearTypes> parts{};
    AllFormats::for_each([&]<class F>() { parts[static_cast<size_t>(F::kType)] = linear_part<F>(); });
    return parts;
}();

}  // namespace

EDGELLM_LINEAR_SETS(EDGELLM_DECLARE, LinearKernels, kLinear)

const LinearKernels& linear_kernels(Isa isa) {
    static constexpr ByIsa<LinearKernels> table = {EDGELLM_LINEAR_SETS(EDGELLM_ENTRY, kLinear)};
    return table[isa];
}

// `describe` has refused numbers of no format.
void LinearKernels::matmul(const MatmulTask& task) const {
    const auto type = static_cast<size_t>(task.m.type);
    if (task.m.split) return parts[kWidePart]->split(task);
    parts[kPartOf[type]]->matmul[type](task);
}

void LinearKernels::approximate(const MatmulTask& task) const {
    parts[kMinimumsPart]->approximate(task);
}

}  // namespace edgellm
