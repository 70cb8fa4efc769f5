// SPDX-License-Identifier: MIT
// All weight formats. A new one enters here, with its header.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/block32.h"
#include "formats/floats.h"
#include "formats/formats.h"
#include "formats/iq4_xs.h"
#include "formats/iq_quants.h"
#include "formats/k_quants.h"
#include "formats/nvfp4.h"
#include "formats/packing.h"
#include "formats/ternary.h"

namespace edgellm {

template <class... Formats>
struct FormatList {
    static constexpr size_t kSize = sizeof...(Formats);

    // Calls f.template operator()<Format>() for each format.
    template <class F>
    static constexpr void for_each(F&& f) {
        (f.template operator()<Formats>(), ...);
    }

    // The same for the format of that number; false if there is none.
    template <class F>
    static constexpr bool visit(GGMLType type, F&& f) {
        return ((type == Formats::kType && (f.template operator()<Formats>(), true)) || ...);
    }

    // The largest number.
    static constexpr uint32_t largest_type() {
        uint32_t largest = 0;
        for (const GGMLType type : {Formats::kType...}) {
            if (static_cast<uint32_t>(type) > largest) largest = static_cast<uint32_t>(type);
        }
        return largest;
    }

    static_assert((WeightFormat<Formats> && ...));
};

using AllFormats = FormatList<
    // Numbers, one to a block.
    formats::F32, formats::F16, formats::BF16,
    // Blocks of 32 values.
    formats::Q4_0, formats::Q4_1, formats::Q5_0, formats::Q5_1, formats::Q8_0, formats::IQ4_NL,
    formats::MXFP4,
    // Blocks of 64 values.
    formats::NVFP4,
    // Blocks of 256 values.
    formats::Q2_K, formats::Q3_K, formats::Q4_K, formats::Q5_K, formats::Q6_K, formats::IQ4_XS,
    formats::IQ1_S, formats::IQ1_M, formats::IQ2_XXS, formats::IQ2_XS, formats::IQ2_S, formats::IQ3_XXS,
    formats::IQ3_S, formats::TQ1_0, formats::TQ2_0>;

}  // namespace edgellm
