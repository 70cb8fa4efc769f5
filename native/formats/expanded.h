// SPDX-License-Identifier: MIT
// The common form of a 256-value block: small integers with a scale and a minimum per 16 values.
// Formats without a packed layout of their own reach the kernels, and the decoder, through it.
#pragma once

#include <cstdint>

#include "formats/formats.h"

namespace edgellm {

// value[i] = d * scale[i / 16] * code value - dmin * minimum[i / 16], where the code value is levels[code[i]]
// of the format. d holds every constant factor, so the products are exact in float until the last rounding.
struct ExpandedBlock {
    float d;
    float dmin;
    int8_t scale[16];
    uint8_t minimum[16];
    uint8_t code[256];  // 0..15
};

inline void decode_expanded(const ExpandedBlock& block, const int8_t* levels, float* out) {
    for (int i = 0; i < 256; ++i) {
        const float scale = block.d * static_cast<float>(block.scale[i / 16]);
        const float minimum = block.dmin * static_cast<float>(block.minimum[i / 16]);
        out[i] = scale * static_cast<float>(levels[block.code[i]]) - minimum;
    }
}

// A format that is used through ExpandedBlock.
struct ExpandedFormat {
    GGMLType type;
    const char* name;
    uint32_t block_bytes;
    void (*expand)(const uint8_t* block, ExpandedBlock* out);
};

// nullptr for a format with a packed layout of its own.
const ExpandedFormat* find_expanded_format(GGMLType type);

}  // namespace edgellm
