// SPDX-License-Identifier: MIT
// IQ1, IQ2, IQ3: 256 values as points of a grid (8 or 4 values each), with signs or a shift, and 3 or 4-bit
// scales.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "formats/expanded.h"
#include "formats/iq_grids.h"

namespace edgellm {

// IQ2 and IQ3: the magnitude's index, + 8 if negative.
inline constexpr int8_t kIQ2Levels[16] = {8, 25, 43, 0, 0, 0, 0, 0, -8, -25, -43};
inline constexpr int8_t kIQ3XXSLevels[16] = {4,  12,  20,  28,  36,  44,  52,  62,
                                             -4, -12, -20, -28, -36, -44, -52, -62};
inline constexpr int8_t kIQ3SLevels[16] = {1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15};
// IQ1, in eighths: 8 * grid + 1 by grid + 1; + 8 where the shift is negative.
inline constexpr int8_t kIQ1Levels[16] = {-7, 1, 9, 0, 0, 0, 0, 0, -9, -1, 7};

// The eighth sign makes the number of negative ones even.
inline unsigned iq_signs(unsigned seven_bits) {
    return seven_bits | (std::popcount(seven_bits) & 1u) << 7;
}

// Codes of n values from the bytes of a grid point (magnitudes) and their sign bits, lowest first.
inline void iq_codes(uint64_t point, unsigned signs, int shift, int n, uint8_t* code) {
    for (int i = 0; i < n; ++i) {
        const unsigned magnitude = static_cast<unsigned>(point >> (8 * i)) & 255;
        code[i] = static_cast<uint8_t>(magnitude >> shift | (signs >> i & 1) << 3);
    }
}

// The same of an IQ1 point (-1, 0, 1 as int8).
inline void iq1_codes(uint64_t point, unsigned negative, uint8_t* code) {
    for (int i = 0; i < 8; ++i) {
        const int value = static_cast<int8_t>(point >> (8 * i));
        code[i] = static_cast<uint8_t>((value + 1) | negative << 3);
    }
}

inline void expand_iq_header(float d, ExpandedBlock* out) {
    out->d = d;
    out->dmin = 0.0f;
    std::memset(out->minimum, 0, 16);
}

namespace formats {

struct IQ2_XXS : ExpandedFormat<IQ2_XXS> {  // d * (2 s + 1) / 8 * grid * sign
    static constexpr const char* kName = "IQ2_XXS";
    static constexpr GGMLType kType{16};
    static constexpr const int8_t* kLevels = kIQ2Levels;

    struct Block {
        uint8_t d[2];
        uint8_t qs[64];  // per 32 values: 4 grid indices, then a word: 4 x 7 sign bits, 4-bit s
    };
    static_assert(sizeof(Block) == 66);

    static void expand(const Block& b, ExpandedBlock* out) {
        expand_iq_header(load_half(b.d) * 0.125f, out);
        for (int j = 0; j < 8; ++j) {
            const uint8_t* qs = b.qs + 8 * j;
            const uint32_t word = load_u32(qs + 4);
            out->scale[2 * j] = out->scale[2 * j + 1] = static_cast<int8_t>(2 * (word >> 28) + 1);
            for (int k = 0; k < 4; ++k) {
                iq_codes(iq2_xxs_grid[qs[k]], iq_signs(word >> (7 * k) & 127), 4, 8,
                         out->code + 32 * j + 8 * k);
            }
        }
    }
};

struct IQ2_XS : ExpandedFormat<IQ2_XS> {  // d * (2 s + 1) / 8 * grid * sign
    static constexpr const char* kName = "IQ2_XS";
    static constexpr GGMLType kType{17};
    static constexpr const int8_t* kLevels = kIQ2Levels;

    struct Block {
        uint8_t d[2];
        uint8_t qs[64];     // 32 words: 9-bit grid index, 7 sign bits
        uint8_t scales[8];  // 4-bit s per 16 values
    };
    static_assert(sizeof(Block) == 74);

    static void expand(const Block& b, ExpandedBlock* out) {
        expand_iq_header(load_half(b.d) * 0.125f, out);
        for (int i = 0; i < 16; ++i) {
            out->scale[i] = static_cast<int8_t>(2 * (b.scales[i / 2] >> (i % 2 * 4) & 15) + 1);
        }
        for (int k = 0; k < 32; ++k) {
            const uint16_t word = load_u16(b.qs + 2 * k);
            iq_codes(iq2_xs_grid[word & 511], iq_signs(word >> 9), 4, 8, out->code + 8 * k);
        }
    }
};

struct IQ2_S : ExpandedFormat<IQ2_S> {  // d * (2 s + 1) / 8 * grid * sign
    static constexpr const char* kName = "IQ2_S";
    static constexpr GGMLType kType{22};
    static constexpr const int8_t* kLevels = kIQ2Levels;

    struct Block {
        uint8_t d[2];
        uint8_t qs[32];  // low 8 of 10 index bits
        uint8_t signs[32];
        uint8_t qh[8];
        uint8_t scales[8];
    };
    static_assert(sizeof(Block) == 82);

    static void expand(const Block& b, ExpandedBlock* out) {
        expand_iq_header(load_half(b.d) * 0.125f, out);
        for (int i = 0; i < 16; ++i)
            out->scale[i] = static_cast<int8_t>(2 * (b.scales[i / 2] >> (i % 2 * 4) & 15) + 1);
        for (int k = 0; k < 32; ++k) {
            const int index = b.qs[k] | (b.qh[k / 4] >> (k % 4 * 2) & 3) << 8;
            iq_codes(iq2_s_grid[index], b.signs[k], 4, 8, out->code + 8 * k);
        }
    }
};

struct IQ3_XXS : ExpandedFormat<IQ3_XXS> {  // d * (2 s + 1) / 4 * grid * sign
    static constexpr const char* kName = "IQ3_XXS";
    static constexpr GGMLType kType{18};
    static constexpr const int8_t* kLevels = kIQ3XXSLevels;

    struct Block {
        uint8_t d[2];
        uint8_t qs[64];     // grid indices, 4 values each
        uint8_t signs[32];  // per 32 values a word: 4 x 7 sign bits, 4-bit s
    };
    static_assert(sizeof(Block) == 98);

    static void expand(const Block& b, ExpandedBlock* out) {
        expand_iq_header(load_half(b.d) * 0.25f, out);
        for (int j = 0; j < 8; ++j) {
            const uint8_t* qs = b.qs + 8 * j;
            const uint32_t word = load_u32(b.signs + 4 * j);
            out->scale[2 * j] = out->scale[2 * j + 1] = static_cast<int8_t>(2 * (word >> 28) + 1);
            for (int k = 0; k < 4; ++k) {
                const unsigned signs = iq_signs(word >> (7 * k) & 127);
                uint8_t* code = out->code + 32 * j + 8 * k;
                iq_codes(iq3_xxs_grid[qs[2 * k]], signs, 3, 4, code);
                iq_codes(iq3_xxs_grid[qs[2 * k + 1]], signs >> 4, 3, 4, code + 4);
            }
        }
    }
};

struct IQ3_S : ExpandedFormat<IQ3_S> {  // d * (2 s + 1) * grid * sign
    static constexpr const char* kName = "IQ3_S";
    static constexpr GGMLType kType{21};
    static constexpr const int8_t* kLevels = kIQ3SLevels;

    struct Block {
        uint8_t d[2];
        uint8_t qs[64];
        uint8_t qh[8];  // ninth index bits
        uint8_t signs[32];
        uint8_t scales[4];
    };
    static_assert(sizeof(Block) == 110);

    static void expand(const Block& b, ExpandedBlock* out) {
        expand_iq_header(load_half(b.d), out);
        for (int i = 0; i < 16; ++i)
            out->scale[i] = static_cast<int8_t>(2 * (b.scales[i / 4] >> (i / 2 % 2 * 4) & 15) + 1);
        for (int k = 0; k < 64; ++k) {
            const int index = b.qs[k] | (b.qh[k / 8] >> (k % 8) & 1) << 8;
            iq_codes(iq3_s_grid[index], b.signs[k / 2] >> (k % 2 * 4), 1, 4, out->code + 4 * k);
        }
    }
};

struct IQ1_S : ExpandedFormat<IQ1_S> {  // d * (2 s + 1) * (grid + shift), shift = +-1/8
    static constexpr const char* kName = "IQ1_S";
    static constexpr GGMLType kType{19};
    static constexpr const int8_t* kLevels = kIQ1Levels;

    struct Block {
        uint8_t d[2];
        uint8_t qs[32];
        uint8_t qh[16];  // per 32 values a word: 4 x 3 high index bits, 3-bit s, the shift's sign
    };
    static_assert(sizeof(Block) == 50);

    static void expand(const Block& b, ExpandedBlock* out) {
        expand_iq_header(load_half(b.d) * 0.125f, out);
        for (int i = 0; i < 8; ++i) {
            const unsigned word = load_u16(b.qh + 2 * i);
            out->scale[2 * i] = out->scale[2 * i + 1] = static_cast<int8_t>(2 * (word >> 12 & 7) + 1);
            for (int k = 0; k < 4; ++k) {
                const unsigned index = b.qs[4 * i + k] | (word >> (3 * k) & 7) << 8;
                iq1_codes(iq1_s_grid[index], word >> 15, out->code + 32 * i + 8 * k);
            }
        }
    }
};

struct IQ1_M : ExpandedFormat<IQ1_M> {  // d * (2 s + 1) * (grid + shift), shift = +-1/8
    static constexpr const char* kName = "IQ1_M";
    static constexpr GGMLType kType{29};
    static constexpr const int8_t* kLevels = kIQ1Levels;

    struct Block {
        uint8_t qs[32];
        uint8_t qh[16];     // per 8 values a nibble: 3 high index bits, the shift's sign
        uint8_t scales[8];  // 4 words: four 3-bit s (per 16 values) and 4 bits of d
    };
    static_assert(sizeof(Block) == 56);

    static void expand(const Block& b, ExpandedBlock* out) {
        uint16_t d = 0;
        for (int i = 0; i < 4; ++i) {
            const unsigned word = load_u16(b.scales + 2 * i);
            d = static_cast<uint16_t>(d | (word >> 12) << (4 * i));
            for (int j = 0; j < 4; ++j)
                out->scale[4 * i + j] = static_cast<int8_t>(2 * (word >> (3 * j) & 7) + 1);
        }
        expand_iq_header(half_to_float(d) * 0.125f, out);
        for (int k = 0; k < 32; ++k) {
            const unsigned high = b.qh[k / 2] >> (k % 2 * 4) & 15;
            iq1_codes(iq1_s_grid[b.qs[k] | (high & 7) << 8], high >> 3, out->code + 8 * k);
        }
    }
};

}  // namespace formats
}  // namespace edgellm
