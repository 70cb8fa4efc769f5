// SPDX-License-Identifier: MIT
// The formats that are used through ExpandedBlock.
#pragma once

#include "formats/expanded.h"
#include "formats/formats.h"
#include "formats/iq_quants.h"
#include "formats/k_quants.h"
#include "formats/ternary.h"

namespace edgellm {

struct ExpandedFormat {
    GGMLType type;
    uint32_t block_bytes;
    const int8_t* levels;  // 16
    void (*expand)(const uint8_t* block, ExpandedBlock* out);
};

inline constexpr ExpandedFormat kExpandedFormats[] = {
    {GGMLType::Q2_K, sizeof(BlockQ2_K), kQ2Levels, expand_q2_k},
    {GGMLType::Q3_K, sizeof(BlockQ3_K), kQ3Levels, expand_q3_k},
    {GGMLType::IQ1_S, sizeof(BlockIQ1_S), kIQ1Levels, expand_iq1_s},
    {GGMLType::IQ1_M, sizeof(BlockIQ1_M), kIQ1Levels, expand_iq1_m},
    {GGMLType::IQ2_XXS, sizeof(BlockIQ2_XXS), kIQ2Levels, expand_iq2_xxs},
    {GGMLType::IQ2_XS, sizeof(BlockIQ2_XS), kIQ2Levels, expand_iq2_xs},
    {GGMLType::IQ2_S, sizeof(BlockIQ2_S), kIQ2Levels, expand_iq2_s},
    {GGMLType::IQ3_XXS, sizeof(BlockIQ3_XXS), kIQ3XXSLevels, expand_iq3_xxs},
    {GGMLType::IQ3_S, sizeof(BlockIQ3_S), kIQ3SLevels, expand_iq3_s},
    {GGMLType::TQ1_0, sizeof(BlockTQ1_0), kTernaryLevels, expand_tq1_0},
    {GGMLType::TQ2_0, sizeof(BlockTQ2_0), kTernaryLevels, expand_tq2_0},
};

// nullptr for a format with a layout of its own.
constexpr const ExpandedFormat* find_expanded_format(GGMLType type) {
    for (const ExpandedFormat& format : kExpandedFormats) {
        if (format.type == type) return &format;
    }
    return nullptr;
}

}  // namespace edgellm
