// SPDX-License-Identifier: MIT
// K-quants: 256 values in 16 or 8 sub-blocks, integer scales (and minimums) under one half-precision scale.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/expanded.h"

namespace edgellm {

// Codes of Q2_K and Q3_K: the value, shifted.
inline constexpr int8_t kQ2Levels[16] = {0, 1, 2, 3};
inline constexpr int8_t kQ3Levels[16] = {-4, -3, -2, -1, 0, 1, 2, 3};

// The eight 6-bit scales and minimums of Q4_K and Q5_K.
inline void unpack_k_scales(const uint8_t* packed, uint8_t* scale, uint8_t* minimum) {
    // Four at a time.
    const uint32_t a = load_u32(packed), b = load_u32(packed + 4), c = load_u32(packed + 8);
    const uint32_t scales[2] = {a & 0x3f3f3f3fu, (c & 0x0f0f0f0fu) | (a >> 6 & 0x03030303u) << 4};
    const uint32_t minimums[2] = {b & 0x3f3f3f3fu, (c >> 4 & 0x0f0f0f0fu) | (b >> 6 & 0x03030303u) << 4};
    std::memcpy(scale, scales, sizeof(scales));
    std::memcpy(minimum, minimums, sizeof(minimums));
}
EDGELLM_INLINE void store_k_scales(const int* scale, const int* minimum, uint8_t* packed) {
    for (int j = 0; j < 4; ++j) {
        packed[j] = static_cast<uint8_t>(scale[j] | (scale[j + 4] >> 4) << 6);
        packed[j + 4] = static_cast<uint8_t>(minimum[j] | (minimum[j + 4] >> 4) << 6);
        packed[j + 8] = static_cast<uint8_t>((scale[j + 4] & 15) | (minimum[j + 4] & 15) << 4);
    }
}

// 2-bit codes: byte i of a half holds values i, i + 32, i + 64, i + 96 of its 128, low bits first.
inline int two_bits(const uint8_t* qs, int i) {
    return qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}
EDGELLM_INLINE void store_two_bits(const uint8_t* codes, uint8_t* qs) {
    for (int i = 0; i < 64; ++i) {
        const uint8_t* c = codes + i / 32 * 128 + i % 32;
        qs[i] = static_cast<uint8_t>((c[0] & 3) | (c[32] & 3) << 2 | (c[64] & 3) << 4 | (c[96] & 3) << 6);
    }
}

// 4-bit codes: byte i holds values i and i + 32 of its 64.
inline int four_bits(const uint8_t* qs, int i) {
    return qs[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
}
EDGELLM_INLINE void store_four_bits(const uint8_t* codes, uint8_t* qs) {
    for (int i = 0; i < 128; ++i) {
        const uint8_t* c = codes + i / 32 * 64 + i % 32;
        qs[i] = static_cast<uint8_t>((c[0] & 15) | (c[32] & 15) << 4);
    }
}

// The plane of bit i of 32 values' bytes: its bit j belongs to group j.
inline uint32_t pack_bits(const uint8_t* bytes, size_t i) {
    uint32_t plane = 0;
    for (unsigned j = 0; j < 8; ++j) plane |= (load_u32(bytes + 4 * j) >> i & 0x01010101u) << j;
    return plane;
}

// TwoBits of 32 values, each in bits `shift` and up of its byte.
inline void pack_two_bits(const PackedBlockRow& to, const uint8_t* qs, unsigned shift) {
    for (size_t half = 0; half < 2; ++half) {
        uint32_t plane = 0;
        for (unsigned j = 0; j < 4; ++j) {
            plane |= (load_u32(qs + 16 * half + 4 * j) >> shift & 0x03030303u) << (2 * j);
        }
        to.word(half, plane);
    }
}

// 64 values as 32 bytes, the first 32 in low nibbles. `high` picks the second half.
inline void pack_k_nibbles(const PackedBlockRow& to, const uint8_t* qs, bool high) {
    for (size_t j = 0; j < 4; ++j) {
        const uint32_t a = load_u32(qs + 4 * j) >> (high ? 4 : 0) & 0x0f0f0f0fu;
        const uint32_t b = load_u32(qs + 16 + 4 * j) >> (high ? 4 : 0) & 0x0f0f0f0fu;
        to.word(j, a | b << 4);
    }
}

namespace formats {

struct Q2_K : ExpandedFormat<Q2_K> {  // d * (scale & 15) * q - dmin * (scale >> 4), per 16 values
    static constexpr const char* kName = "Q2_K";
    static constexpr GGMLType kType{10};
    static constexpr const int8_t* kLevels = kQ2Levels;
    using Codes = TwoBits;
    using Scales = IntegerScales<Halves, true>;
    static constexpr AffineSuperEncoding kEncoding{.values_per_scale = 16,
                                                   .largest_code = 3,
                                                   .largest_scale = 15,
                                                   .tries = 5,
                                                   .step = 0.06f,
                                                   .by_magnitude = true};

    struct Block {
        uint8_t scales[16];
        uint8_t qs[64];  // two_bits
        uint8_t d[2];
        uint8_t dmin[2];
    };
    static_assert(sizeof(Block) == 84);

    static void expand(const Block& b, ExpandedBlock* out) {
        out->d = load_half(b.d);
        out->dmin = load_half(b.dmin);
        for (int i = 0; i < 16; ++i) {
            out->scale[i] = b.scales[i] & 15;
            out->minimum[i] = b.scales[i] >> 4;
        }
        for (int i = 0; i < 256; ++i) out->code[i] = static_cast<uint8_t>(two_bits(b.qs, i));
    }
    static bool pack(const Block& b, const PackedRow& to) {
        to.half(0, b.d);
        to.half(1, b.dmin);
        for (size_t i = 0; i < 8; ++i) {
            const PackedBlockRow block = to.block(i);
            for (size_t half = 0; half < 2; ++half) {
                block.byte(half, b.scales[2 * i + half] & 15);
                block.byte(2 + half, b.scales[2 * i + half] >> 4);
            }
            pack_two_bits(block, b.qs + i / 4 * 32, 2 * (i % 4));
        }
        return finite_half(b.d) && finite_half(b.dmin);
    }
    EDGELLM_INLINE static void store(const EncodedSuper& e, Block& b) {
        for (int i = 0; i < 16; ++i) b.scales[i] = static_cast<uint8_t>(e.scale[i] | e.minimum[i] << 4);
        store_two_bits(e.codes, b.qs);
        store_half(b.d, e.d);
        store_half(b.dmin, e.dmin);
    }
};

struct Q3_K : ExpandedFormat<Q3_K> {  // d * (scale - 32) * (q - 4), per 16 values
    static constexpr const char* kName = "Q3_K";
    static constexpr GGMLType kType{11};
    static constexpr const int8_t* kLevels = kQ3Levels;
    using Codes = ThreeBits;
    using Scales = IntegerScales<Halves, false>;
    static constexpr ScaledSuperEncoding kEncoding{.values_per_scale = 16,
                                                   .lowest_scale = -32,
                                                   .highest_scale = 31,
                                                   .tries = 4,
                                                   .step = 0.06f,
                                                   .lowest_level = -4,
                                                   .highest_level = 3};

    struct Block {
        uint8_t hmask[32];  // third bits: bit j of byte i for value 32 j + i
        uint8_t qs[64];     // low two bits: two_bits
        uint8_t scales[12];
        uint8_t d[2];
    };
    static_assert(sizeof(Block) == 110);

    static int8_t scale(const Block& b, size_t i) {
        const int low = i < 8 ? b.scales[i] & 15 : b.scales[i - 8] >> 4;
        const int high = b.scales[8 + i % 4] >> (i / 4 * 2) & 3;
        return static_cast<int8_t>((low | high << 4) - 32);
    }
    static void expand(const Block& b, ExpandedBlock* out) {
        out->d = load_half(b.d);
        out->dmin = 0.0f;
        for (int i = 0; i < 16; ++i) {
            out->scale[i] = scale(b, i);
            out->minimum[i] = 0;
        }
        for (int i = 0; i < 256; ++i)
            out->code[i] = static_cast<uint8_t>(two_bits(b.qs, i) | (b.hmask[i % 32] >> (i / 32) & 1) << 2);
    }
    static bool pack(const Block& b, const PackedRow& to) {
        to.half(0, b.d);
        for (size_t i = 0; i < 8; ++i) {
            const PackedBlockRow block = to.block(i);
            for (size_t half = 0; half < 2; ++half)
                block.byte(half, static_cast<uint8_t>(scale(b, 2 * i + half)));
            pack_two_bits(block, b.qs + i / 4 * 32, 2 * (i % 4));
            block.word(2, pack_bits(b.hmask, i));
        }
        return finite_half(b.d);
    }
    EDGELLM_INLINE static void store(const EncodedSuper& e, Block& b) {
        for (int i = 0; i < 16; ++i) {
            const int scale = e.scale[i] + 32;
            b.scales[i % 8] |= static_cast<uint8_t>((scale & 15) << (i < 8 ? 0 : 4));
            b.scales[8 + i % 4] |= static_cast<uint8_t>((scale >> 4) << 2 * (i / 4));
        }
        store_two_bits(e.codes, b.qs);
        for (int i = 0; i < 256; ++i) b.hmask[i % 32] |= static_cast<uint8_t>((e.codes[i] >> 2) << i / 32);
        store_half(b.d, e.d);
    }
};

// d * scale * q - dmin * minimum, per 32 values, with codes of 4 or 5 bits.
template <class F>
struct KMinimums : QuantizedDefaults {
    static constexpr uint32_t kBlockSize = 256;
    using Scales = SuperScalesMinimums;

    template <class Block>
    static void decode(const Block& b, float* out) {
        uint8_t scale[8], minimum[8];
        unpack_k_scales(b.scales, scale, minimum);
        for (int i = 0; i < 256; ++i) {
            int code = four_bits(b.qs, i);
            if constexpr (requires { b.qh; }) code |= (b.qh[i % 32] >> (i / 32) & 1) << 4;
            const float d = load_half(b.d) * static_cast<float>(scale[i / 32]);
            const float m = load_half(b.dmin) * static_cast<float>(minimum[i / 32]);
            out[i] = d * static_cast<float>(code) - m;
        }
    }
    template <class Block>
    static bool pack(const Block& b, const PackedRow& to) {
        uint8_t scale[8], minimum[8];
        unpack_k_scales(b.scales, scale, minimum);
        to.half(0, b.d);
        to.half(1, b.dmin);
        for (size_t i = 0; i < 8; ++i) {
            const PackedBlockRow block = to.block(i);
            block.byte(0, scale[i]);
            block.byte(1, minimum[i]);
            pack_k_nibbles(block, b.qs + i / 2 * 32, i % 2 != 0);
            if constexpr (requires { b.qh; }) {
                block.word(4, pack_bits(b.qh, i));
            }
        }
        return finite_half(b.d) && finite_half(b.dmin);
    }
    template <class Block>
    EDGELLM_INLINE static void store(const EncodedSuper& e, Block& b) {
        store_half(b.d, e.d);
        store_half(b.dmin, e.dmin);
        store_k_scales(e.scale, e.minimum, b.scales);
        store_four_bits(e.codes, b.qs);
        if constexpr (requires { b.qh; }) {
            for (int i = 0; i < 256; ++i) b.qh[i % 32] |= static_cast<uint8_t>((e.codes[i] >> 4) << i / 32);
        }
    }
};

struct Q4_K : KMinimums<Q4_K> {
    static constexpr const char* kName = "Q4_K";
    static constexpr GGMLType kType{12};
    using Codes = Nibbles;
    static constexpr AffineSuperEncoding kEncoding{.values_per_scale = 32,
                                                   .largest_code = 15,
                                                   .largest_scale = 63,
                                                   .tries = 3,
                                                   .step = 0.03f,
                                                   .by_magnitude = true};

    struct Block {
        uint8_t d[2];
        uint8_t dmin[2];
        uint8_t scales[12];
        uint8_t qs[128];  // four_bits
    };
    static_assert(sizeof(Block) == 144);
};

struct Q5_K : KMinimums<Q5_K> {
    static constexpr const char* kName = "Q5_K";
    static constexpr GGMLType kType{13};
    using Codes = FiveBits;
    static constexpr AffineSuperEncoding kEncoding{.values_per_scale = 32,
                                                   .largest_code = 31,
                                                   .largest_scale = 63,
                                                   .tries = 3,
                                                   .step = 0.015f,
                                                   .by_magnitude = true};

    struct Block {
        uint8_t d[2];
        uint8_t dmin[2];
        uint8_t scales[12];
        uint8_t qh[32];   // fifth bits: bit j of byte i for value 32 j + i
        uint8_t qs[128];  // four_bits
    };
    static_assert(sizeof(Block) == 176);
};

struct Q6_K : QuantizedDefaults {  // d * scale * (q - 32), per 16 values
    static constexpr const char* kName = "Q6_K";
    static constexpr GGMLType kType{14};
    static constexpr uint32_t kBlockSize = 256;
    using Codes = SixBits;
    using Scales = SuperPairScales;
    static constexpr int kOffset = 32;
    static constexpr ScaledSuperEncoding kEncoding{.values_per_scale = 16,
                                                   .lowest_scale = -128,
                                                   .highest_scale = 127,
                                                   .tries = 5,
                                                   .step = 0.005f,
                                                   .lowest_level = -32,
                                                   .highest_level = 31};

    struct Block {
        uint8_t ql[128];  // 2 x 64 bytes; byte i holds the low nibbles of values i and i + 64 of its 128
        uint8_t qh[64];   // high bits: two_bits
        int8_t scales[16];
        uint8_t d[2];
    };
    static_assert(sizeof(Block) == 210);

    static float value(const Block& b, int i) {
        const int low = b.ql[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        const float d = load_half(b.d) * static_cast<float>(b.scales[i / 16]);
        return d * static_cast<float>((low | two_bits(b.qh, i) << 4) - 32);
    }
    static bool pack(const Block& b, const PackedRow& to) {
        to.half(0, b.d);
        for (size_t i = 0; i < 8; ++i) {
            const PackedBlockRow block = to.block(i);
            block.byte(0, static_cast<uint8_t>(b.scales[2 * i]));
            block.byte(1, static_cast<uint8_t>(b.scales[2 * i + 1]));
            pack_k_nibbles(block, b.ql + i / 4 * 64 + i % 2 * 32, i % 4 >= 2);
            const uint8_t* high = b.qh + i / 4 * 32;
            for (size_t half = 0; half < 2; ++half) {
                uint32_t plane = 0;
                for (unsigned j = 0; j < 4; ++j) {
                    plane |= (load_u32(high + 16 * half + 4 * j) >> (2 * (i % 4)) & 0x03030303u) << (2 * j);
                }
                block.word(4 + half, plane);
            }
        }
        return finite_half(b.d);
    }
    EDGELLM_INLINE static void store(const EncodedSuper& e, Block& b) {
        for (int i = 0; i < 16; ++i) b.scales[i] = static_cast<int8_t>(e.scale[i]);
        for (int i = 0; i < 128; ++i) {
            const uint8_t* c = e.codes + i / 64 * 128 + i % 64;
            b.ql[i] = static_cast<uint8_t>((c[0] & 15) | (c[64] & 15) << 4);
        }
        uint8_t high[256];
        for (int i = 0; i < 256; ++i) high[i] = e.codes[i] >> 4;
        store_two_bits(high, b.qh);
        store_half(b.d, e.d);
    }
};

}  // namespace formats
}  // namespace edgellm
