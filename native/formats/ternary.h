// SPDX-License-Identifier: MIT
// TQ1_0 and TQ2_0: 256 values of -1, 0, 1 under one scale.
#pragma once

#include <cstdint>
#include <cstring>

#include "formats/expanded.h"

namespace edgellm {

inline constexpr int8_t kTernaryLevels[16] = {-1, 0, 1, 2};

inline void expand_one_scale(float d, ExpandedBlock* out) {
    out->d = d;
    out->dmin = 0.0f;
    std::memset(out->scale, 1, 16);
    std::memset(out->minimum, 0, 16);
}

namespace formats {

struct TQ1_0 : ExpandedFormat<TQ1_0> {  // d * (trit - 1)
    static constexpr const char* kName = "TQ1_0";
    static constexpr GGMLType kType{34};
    static constexpr const int8_t* kLevels = kTernaryLevels;

    struct Block {  // a byte holds five trits, or four in qh, as a fraction of 256
        uint8_t qs[48];
        uint8_t qh[4];
        uint8_t d[2];
    };
    static_assert(sizeof(Block) == 54);

    // Trit n of a byte: multiply by 3^n modulo 256, then take the top base-3 digit.
    static uint8_t trit(uint8_t byte, int n) {
        constexpr int kPowers[5] = {1, 3, 9, 27, 81};
        return static_cast<uint8_t>((static_cast<uint8_t>(byte * kPowers[n]) * 3) >> 8);
    }
    static void expand(const Block& b, ExpandedBlock* out) {
        expand_one_scale(load_half(b.d), out);
        for (int i = 0; i < 160; ++i) out->code[i] = trit(b.qs[i % 32], i / 32);
        for (int i = 0; i < 80; ++i) out->code[160 + i] = trit(b.qs[32 + i % 16], i / 16);
        for (int i = 0; i < 16; ++i) out->code[240 + i] = trit(b.qh[i % 4], i / 4);
    }
};

struct TQ2_0 : ExpandedFormat<TQ2_0> {  // d * (q - 1)
    static constexpr const char* kName = "TQ2_0";
    static constexpr GGMLType kType{35};
    static constexpr const int8_t* kLevels = kTernaryLevels;

    struct Block {
        uint8_t
            qs[64];  // 2 x 32 bytes; byte i holds values i, i + 32, i + 64, i + 96 of its 128, low bits first
        uint8_t d[2];
    };
    static_assert(sizeof(Block) == 66);

    static void expand(const Block& b, ExpandedBlock* out) {
        expand_one_scale(load_half(b.d), out);
        for (int i = 0; i < 256; ++i) out->code[i] = b.qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
    }
};

}  // namespace formats
}  // namespace edgellm
