// SPDX-License-Identifier: MIT
// IQ4_XS: the sixteen levels of kIQ4Levels, 256 values, a 6-bit scale for each 32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/block32.h"

namespace edgellm::formats {

struct IQ4_XS : QuantizedDefaults {  // d * (scale - 32) * kIQ4Levels[q]
    static constexpr const char* kName = "IQ4_XS";
    static constexpr GGMLType kType{23};
    static constexpr uint32_t kBlockSize = 256;
    using Codes = Nibbles;
    using Scales = SuperScales;
    static constexpr int kOffset = 128;
    static constexpr const int8_t* kLevels = kIQ4Levels;
    static constexpr ScaledSuperEncoding kEncoding{
        .values_per_scale = 32, .lowest_scale = -32, .highest_scale = 31, .tries = 3, .step = 0.04f};

    struct Block {
        uint8_t d[2];
        uint8_t scales_h[2];
        uint8_t scales_l[4];
        uint8_t qs[128];  // 8 x 16 bytes, low nibbles the first 16 values of 32
    };
    static_assert(sizeof(Block) == 136);

    static int scale(const Block& b, int j) {
        const int low = b.scales_l[j / 2] >> (j % 2 * 4) & 15;
        const int high = load_u16(b.scales_h) >> (2 * j) & 3;
        return (low | high << 4) - 32;
    }
    static float value(const Block& b, int i) {
        const float d = load_half(b.d) * static_cast<float>(scale(b, i / 32));
        return d * static_cast<float>(kIQ4Levels[nibble(b.qs + i / 32 * 16, i % 32)]);
    }
    static bool pack(const Block& b, const PackedRow& to) {
        to.half(0, b.d);
        for (size_t i = 0; i < 8; ++i) {
            to.block(i).byte(0, static_cast<uint8_t>(scale(b, static_cast<int>(i))));
            pack_nibbles(to.block(i), b.qs + 16 * i);
        }
        return finite_half(b.d);
    }
    EDGELLM_INLINE static void store(const EncodedSuper& e, Block& b) {
        store_half(b.d, e.d);
        for (int j = 0; j < 8; ++j) {
            const int scale = e.scale[j] + 32;
            b.scales_l[j / 2] |= static_cast<uint8_t>((scale & 15) << (j % 2 * 4));
            b.scales_h[j / 4] |= static_cast<uint8_t>((scale >> 4) << (j % 4 * 2));
            for (int i = 0; i < 16; ++i) {
                const uint8_t* code = e.codes + 32 * j + i;
                b.qs[16 * j + i] = static_cast<uint8_t>((code[0] & 15) | code[16] << 4);
            }
        }
    }
};

}  // namespace edgellm::formats
