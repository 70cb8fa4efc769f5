// SPDX-License-Identifier: MIT
// Parts of the linear kernels. Tiles of every format and size take the compiler long, so the file of an
// instruction set is compiled once for each part, with EDGELLM_LINEAR_PART as its number (CMakeLists.txt).
#pragma once

#include <array>
#include <cstddef>

#include "formats/list.h"
#include "kernels/linear/linear.h"

namespace edgellm {

constexpr size_t kNumbersAndWordsPart = 0, kMinimumsPart = 1, kCentredPart = 2, kWidePart = 3;

// The part that has a format's kernels.
template <class F>
constexpr size_t linear_part() {
    constexpr KernelKind kKind = kernel_kind<F>();
    if constexpr (kKind == KernelKind::kFloats || kKind == KernelKind::kWords) {
        return kNumbersAndWordsPart;
    } else if constexpr (kKind == KernelKind::kWide) {
        return kWidePart;
    } else {
        // Offsets that are powers of two go into the start of accumulators, others into minimums.
        constexpr bool kIsCentred = F::kOffset > 0 && (F::kOffset & (F::kOffset - 1)) == 0;
        return kIsCentred && !F::Scales::kHasMinimum ? kCentredPart : kMinimumsPart;
    }
}

constexpr size_t kLinearTypes = AllFormats::largest_type() + 1;

struct LinearPart {
    using Multiply = void (*)(const MatmulTask& task);
    std::array<Multiply, kLinearTypes> matmul{};  // by a format's number, where this part has it
    Multiply split = nullptr;                     // kWidePart
    Multiply approximate = nullptr;               // kMinimumsPart
};

}  // namespace edgellm
