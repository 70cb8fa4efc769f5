// SPDX-License-Identifier: MIT
#include <algorithm>
#include <chrono>

#include "base/by_isa.h"
#include "kernels/limits/limits.h"

namespace edgellm {

EDGELLM_LIMITS_SETS(EDGELLM_DECLARE, LimitKernels, kLimits)

const LimitKernels& limit_kernels(Isa isa) {
    static constexpr ByIsa<LimitKernels> table = {EDGELLM_LIMITS_SETS(EDGELLM_ENTRY, kLimits)};
    return table[isa];
}

namespace {

// Multiply-adds per second of the best of several runs, in turn with another set's.
struct Rate {
    Isa isa;
    double best = 0;
    void measure() {
        constexpr size_t kRounds = 1 << 12;  // 50,000 products: some 20 microseconds
        const auto begin = std::chrono::steady_clock::now();
        const auto macs = static_cast<double>(limit_kernels(isa).int8(kRounds));
        best = std::max(
            best, macs / std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
};

Isa time_isas() {
    const Isa strongest = best_isa(detect_cpu());
    if (!isa_needs_timing(strongest)) return strongest;
    Rate rates[] = {{strongest}, {fallback_isa(strongest)}};
    // A core at rest takes a while to reach its clock, and a run may lose its core: the best of many counts.
    for (int i = 0; i < 20; ++i) {
        for (Rate& rate : rates) rate.measure();
    }
    return faster_isa(strongest, rates[0].best, rates[1].best);
}

}  // namespace

Isa fastest_isa() {
    static const Isa chosen = time_isas();
    return chosen;
}

}  // namespace edgellm
