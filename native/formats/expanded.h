// SPDX-License-Identifier: MIT
// Common form of a 256-value block: small integers with a scale and a minimum per 16 values. Its formats
// reach the decoder through it, and the kernels if they have no packed form of their own.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/floats.h"
#include "formats/packing.h"

namespace edgellm {

// value[i] = d * scale[i / 16] * levels[code[i]] - dmin * minimum[i / 16], levels of the format. d holds
// every constant factor, so the products are exact in float until the last rounding.
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

inline bool pack_expanded(const ExpandedBlock& b, const PackedRow& to) {
    to.single(0, b.d);
    to.single(1, b.dmin);
    for (size_t i = 0; i < 8; ++i) {
        const PackedBlockRow block = to.block(i);
        for (size_t half = 0; half < 2; ++half) {
            block.byte(half, static_cast<uint8_t>(b.scale[2 * i + half]));
            block.byte(2 + half, b.minimum[2 * i + half]);
        }
        for (size_t j = 0; j < 4; ++j) {
            block.word(j, load_u32(b.code + 32 * i + 4 * j) | load_u32(b.code + 32 * i + 16 + 4 * j) << 4);
        }
    }
    // Infinity and NaN alone survive a multiplication by zero as NaN.
    return b.d * 0.0f == 0.0f && b.dmin * 0.0f == 0.0f;
}

// A format Self with expand(block, expanded).
template <class Self>
struct ExpandedFormat : QuantizedDefaults {
    static constexpr uint32_t kBlockSize = 256;
    using Codes = Nibbles;
    using Scales = ExpandedScales;

    template <class Block>
    static void decode(const Block& b, float* out) {
        ExpandedBlock expanded;
        Self::expand(b, &expanded);
        decode_expanded(expanded, Self::kLevels, out);
    }
    template <class Block>
    static bool pack(const Block& b, const PackedRow& to) {
        ExpandedBlock expanded;
        Self::expand(b, &expanded);
        return pack_expanded(expanded, to);
    }
};

}  // namespace edgellm
