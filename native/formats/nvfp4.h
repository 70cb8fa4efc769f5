// SPDX-License-Identifier: MIT
// NVFP4: E2M1 values in blocks of 64, a scale for each 16.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "formats/floats.h"
#include "formats/levels.h"
#include "formats/packing.h"

namespace edgellm {

// An unsigned E4M3 number, halved because the levels are doubled. 127 is NaN in E4M3 and 0 in this format.
inline float e4m3_half(uint8_t bits) {
    const int exponent = bits >> 3 & 15, mantissa = bits & 7;
    if (bits == 127) return 0.0f;
    const float power = std::bit_cast<float>(static_cast<uint32_t>(116 + std::max(exponent, 1)) << 23);
    return static_cast<float>(exponent == 0 ? mantissa : mantissa + 8) * power;
}

// block: E4M3 d[2][16], one for each 16 columns.
struct E4M3PairScales : NoScales {
    static constexpr size_t kBytes = 32;
    static constexpr bool kPairs = true;

    template <class S>
    EDGELLM_INLINE static typename S::Floats pair_scale(const uint8_t*, const uint8_t* block, int half,
                                                        int row) {
        return S::mul(S::load_e4m3(block + 16 * half + row), S::broadcast(128.0f));
    }
};

namespace formats {

struct NVFP4 : QuantizedDefaults {  // e4m3_half(d) * kE2M1Levels[q], per 16 values
    static constexpr const char* kName = "NVFP4";
    static constexpr GGMLType kType{40};
    static constexpr uint32_t kBlockSize = 64;
    using Codes = Nibbles;
    using Scales = E4M3PairScales;
    static constexpr int kOffset = 32;  // a zero point that accumulators of 16 columns start with
    static constexpr const int8_t* kLevels = kE2M1Levels;

    struct Block {
        uint8_t d[4];
        uint8_t qs[32];  // 4 x 8 bytes; byte i holds values i (low nibble) and i + 8 of its 16
    };
    static_assert(sizeof(Block) == 36);

    static float value(const Block& b, int i) {
        const int code = b.qs[i / 16 * 8 + i % 8] >> (i % 16 / 8 * 4) & 15;
        return e4m3_half(b.d[i / 16]) * static_cast<float>(kE2M1Levels[code]);
    }
    static bool pack(const Block& b, const PackedRow& to) {
        // Columns 4 j to 4 j + 3 of 16.
        const auto group = [&b](size_t sixteen, size_t j) {
            return load_u32(b.qs + 8 * sixteen + j % 2 * 4) >> (j / 2 * 4) & 0x0f0f0f0fu;
        };
        for (size_t i = 0; i < 2; ++i) {
            for (size_t half = 0; half < 2; ++half) {
                const uint8_t d = b.d[2 * i + half];
                to.block(i).byte(half, d == 127 ? 0 : d & 127);
            }
            for (size_t j = 0; j < 4; ++j) to.block(i).word(j, group(2 * i, j) | group(2 * i + 1, j) << 4);
        }
        return true;
    }
};

}  // namespace formats
}  // namespace edgellm
