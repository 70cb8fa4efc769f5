// SPDX-License-Identifier: MIT
// What a code of four bits stands for, in the formats where that is a table.
#pragma once

#include <cstdint>

#include "formats/formats.h"

namespace edgellm {

inline constexpr int8_t kIQ4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};
// Twice the e2m1 values of OCP MX 1.0, so that they are integers.
inline constexpr int8_t kMXFP4Levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// Codes of ExpandedBlock. Q2_K, Q3_K and the ternary formats: the value, shifted.
inline constexpr int8_t kQ2Levels[16] = {0, 1, 2, 3};
inline constexpr int8_t kQ3Levels[16] = {-4, -3, -2, -1, 0, 1, 2, 3};
inline constexpr int8_t kTernaryLevels[16] = {-1, 0, 1, 2};
// IQ2 and IQ3: the magnitude's index, + 8 if negative.
inline constexpr int8_t kIQ2Levels[16] = {8, 25, 43, 0, 0, 0, 0, 0, -8, -25, -43};
inline constexpr int8_t kIQ3XXSLevels[16] = {4,  12,  20,  28,  36,  44,  52,  62,
                                             -4, -12, -20, -28, -36, -44, -52, -62};
inline constexpr int8_t kIQ3SLevels[16] = {1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15};
// IQ1, in eighths: 8 * grid + 1 by grid + 1; + 8 where the shift is negative.
inline constexpr int8_t kIQ1Levels[16] = {-7, 1, 9, 0, 0, 0, 0, 0, -9, -1, 7};

// nullptr for a format without such a table.
constexpr const int8_t* levels_of(GGMLType type) {
    switch (type) {
        case GGMLType::IQ4_NL:
        case GGMLType::IQ4_XS:
            return kIQ4Levels;
        case GGMLType::MXFP4:
            return kMXFP4Levels;
        case GGMLType::Q2_K:
            return kQ2Levels;
        case GGMLType::Q3_K:
            return kQ3Levels;
        case GGMLType::TQ1_0:
        case GGMLType::TQ2_0:
            return kTernaryLevels;
        case GGMLType::IQ2_XXS:
        case GGMLType::IQ2_XS:
        case GGMLType::IQ2_S:
            return kIQ2Levels;
        case GGMLType::IQ3_XXS:
            return kIQ3XXSLevels;
        case GGMLType::IQ3_S:
            return kIQ3SLevels;
        case GGMLType::IQ1_S:
        case GGMLType::IQ1_M:
            return kIQ1Levels;
        default:
            return nullptr;
    }
}

}  // namespace edgellm
