// SPDX-License-Identifier: MIT
// All weight formats. A new one enters here, with its header.
#pragma once

#include "formats/block32.h"
#include "formats/floats.h"
#include "formats/formats.h"
#include "formats/iq4_xs.h"
#include "formats/iq_quants.h"
#include "formats/k_quants.h"
#include "formats/nvfp4.h"
#include "formats/packing.h"
#include "formats/ternary.h"
#include "formats/typed_list.h"

namespace edgellm {

template <WeightFormat... Formats>
using FormatList = TypedList<Formats...>;

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
