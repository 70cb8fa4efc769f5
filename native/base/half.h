// SPDX-License-Identifier: MIT
// IEEE binary16 and bfloat16, bit for bit, without special instructions.
#pragma once

#include <bit>
#include <cstdint>

#include "base/inline.h"

namespace edgellm {

EDGELLM_INLINE float half_to_float(uint16_t h) {
    const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
    const uint32_t magnitude = h & 0x7fffu;
    // Shift the exponent and mantissa into place, then repair the exponent's bias by a multiplication:
    // exact for normal and subnormal numbers alike.
    float f = std::bit_cast<float>(magnitude << 13) * 0x1p112f;
    if (magnitude >= 0x7c00u) f = std::bit_cast<float>((magnitude << 13) | 0x7f800000u);
    return std::bit_cast<float>(std::bit_cast<uint32_t>(f) | sign);
}

// Rounds to nearest, ties to even.
EDGELLM_INLINE uint16_t float_to_half(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
    uint32_t x = bits & 0x7fffffffu;
    if (x >= 0x7f800000u) return static_cast<uint16_t>(sign | (x > 0x7f800000u ? 0x7e00u : 0x7c00u));
    if (x >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);
    if (x < 0x38800000u) {
        // Subnormal: adding 0.5 puts the result, rounded by the hardware, in the lowest mantissa bits.
        const float sum = std::bit_cast<float>(x) + 0.5f;
        return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(sum) - 0x3f000000u));
    }
    x += 0xc8000fffu + ((x >> 13) & 1u);  // rebias the exponent by -112, round half to even
    return static_cast<uint16_t>(sign | (x >> 13));
}

EDGELLM_INLINE float bf16_to_float(uint16_t h) {
    return std::bit_cast<float>(static_cast<uint32_t>(h) << 16);
}

// Rounds to nearest, ties to even; NaN stays NaN.
EDGELLM_INLINE uint16_t float_to_bf16(float value) {
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace edgellm
