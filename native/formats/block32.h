// SPDX-License-Identifier: MIT
// Formats of 32 values with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4.
// 4-bit codes: byte i holds value i (low nibble) and value i + 16 (high nibble).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "formats/floats.h"
#include "formats/levels.h"
#include "formats/packing.h"

namespace edgellm {

// 2^(e - 128): the e8m0 scale 2^(e - 127), halved because the levels are doubled. The first two are
// subnormal.
EDGELLM_INLINE float e8m0_half(uint8_t e) {
    return std::bit_cast<float>(e < 2 ? 0x00200000u << e : (uint32_t{e} - 1) << 23);
}

EDGELLM_INLINE int nibble(const uint8_t* qs, int i) {
    return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
}
EDGELLM_INLINE int fifth_bit(const uint8_t* qh, int i) {
    return ((qh[i / 8] >> (i % 8)) & 1) << 4;
}

// The packed form of one row's nibbles is that of the file.
inline void pack_nibbles(const PackedBlockRow& to, const uint8_t* qs) {
    for (size_t j = 0; j < 4; ++j) to.word(j, load_u32(qs + 4 * j));
}

// Bits 0..3 of `bits` to bit 0 of bytes 0..3.
inline uint32_t spread_bits(uint32_t bits) {
    return (bits * 0x00204081u) & 0x01010101u;
}

// Fifth bits in column order to the plane whose byte c holds bit j for column 4 j + c.
inline void pack_fifth_bits(const PackedBlockRow& to, uint32_t columns) {
    uint32_t plane = 0;
    for (unsigned j = 0; j < 8; ++j) plane |= spread_bits(columns >> (4 * j) & 15) << j;
    to.word(4, plane);
}

namespace formats {

// 32 codes of 4 or 5 bits, as nibbles and fifth bits, under a scale and perhaps a minimum:
// d * (q - kOffset) + m, or d * kLevels[q]. Halves are kept as bytes: blocks lie at any address of a file.
template <class F>
struct Codes32 : QuantizedDefaults {
    static constexpr uint32_t kBlockSize = 32;

    template <class Block>
    static float value(const Block& b, int i) {
        int code = nibble(b.qs, i);
        if constexpr (requires { b.qh; }) code |= fifth_bit(b.qh, i);
        if constexpr (kHasLevels<F>) {
            return F::scale(b) * static_cast<float>(F::kLevels[code]);
        } else if constexpr (requires { b.m; }) {
            return F::scale(b) * static_cast<float>(code) + load_half(b.m);
        } else {
            return F::scale(b) * static_cast<float>(code - F::kOffset);
        }
    }
    template <class Block>
    static bool pack(const Block& b, const PackedRow& to) {
        pack_nibbles(to.block(0), b.qs);
        if constexpr (requires { b.qh; }) pack_fifth_bits(to.block(0), load_u32(b.qh));
        return F::pack_scales(b, to.block(0));
    }

    template <class Block>
    static float scale(const Block& b) {
        return load_half(b.d);
    }
    template <class Block>
    static bool pack_scales(const Block& b, const PackedBlockRow& to) {
        to.half(0, b.d);
        if constexpr (requires { b.m; }) {
            to.half(1, b.m);
            return finite_half(b.d) && finite_half(b.m);
        } else {
            return finite_half(b.d);
        }
    }
};

struct Q4_0 : Codes32<Q4_0> {  // d * (q - 8)
    static constexpr const char* kName = "Q4_0";
    static constexpr GGMLType kType{2};
    using Codes = Nibbles;
    using Scales = HalfScales;
    static constexpr int kOffset = 8;
    static constexpr SymmetricEncoding kEncoding{};

    struct Block {
        uint8_t d[2];
        uint8_t qs[16];
    };
    static_assert(sizeof(Block) == 18);
};

struct Q4_1 : Codes32<Q4_1> {  // d * q + m
    static constexpr const char* kName = "Q4_1";
    static constexpr GGMLType kType{3};
    using Codes = Nibbles;
    using Scales = HalfScalesMinimums;
    static constexpr AffineEncoding kEncoding{};

    struct Block {
        uint8_t d[2];
        uint8_t m[2];
        uint8_t qs[16];
    };
    static_assert(sizeof(Block) == 20);
};

struct Q5_0 : Codes32<Q5_0> {  // d * (q - 16)
    static constexpr const char* kName = "Q5_0";
    static constexpr GGMLType kType{6};
    using Codes = FiveBits;
    using Scales = HalfScales;
    static constexpr int kOffset = 16;
    static constexpr SymmetricEncoding kEncoding{};

    struct Block {
        uint8_t d[2];
        uint8_t qh[4];  // fifth bits, bit i for value i
        uint8_t qs[16];
    };
    static_assert(sizeof(Block) == 22);
};

struct Q5_1 : Codes32<Q5_1> {  // d * q + m
    static constexpr const char* kName = "Q5_1";
    static constexpr GGMLType kType{7};
    using Codes = FiveBits;
    using Scales = HalfScalesMinimums;
    static constexpr AffineEncoding kEncoding{};

    struct Block {
        uint8_t d[2];
        uint8_t m[2];
        uint8_t qh[4];  // as of Q5_0
        uint8_t qs[16];
    };
    static_assert(sizeof(Block) == 24);
};

struct Q8_0 : QuantizedDefaults {  // d * q
    static constexpr const char* kName = "Q8_0";
    static constexpr GGMLType kType{8};
    static constexpr uint32_t kBlockSize = 32;
    using Codes = SignedBytes;
    using Scales = HalfScales;
    static constexpr int kOffset = 128;
    static constexpr ByteEncoding kEncoding{};

    struct Block {
        uint8_t d[2];
        int8_t qs[32];
    };
    static_assert(sizeof(Block) == 34);

    static float value(const Block& b, int i) { return load_half(b.d) * static_cast<float>(b.qs[i]); }
    static bool pack(const Block& b, const PackedRow& to) {
        to.block(0).half(0, b.d);
        for (size_t j = 0; j < 8; ++j) {
            uint32_t codes;
            std::memcpy(&codes, b.qs + 4 * j, 4);
            to.block(0).word(j, codes);
        }
        return finite_half(b.d);
    }
};

struct IQ4_NL : Codes32<IQ4_NL> {  // d * kIQ4Levels[q]
    static constexpr const char* kName = "IQ4_NL";
    static constexpr GGMLType kType{20};
    using Codes = Nibbles;
    using Scales = HalfScales;
    static constexpr int kOffset = 128;
    static constexpr const int8_t* kLevels = kIQ4Levels;
    static constexpr SymmetricEncoding kEncoding{};

    struct Block {
        uint8_t d[2];
        uint8_t qs[16];
    };
    static_assert(sizeof(Block) == 18);
};

struct MXFP4 : Codes32<MXFP4> {  // 2^(e - 128) * kE2M1Levels[q]
    static constexpr const char* kName = "MXFP4";
    static constexpr GGMLType kType{39};
    using Codes = Nibbles;
    using Scales = ExponentScales;
    static constexpr int kOffset = 12;
    static constexpr const int8_t* kLevels = kE2M1Levels;
    static constexpr ExponentEncoding kEncoding{};

    struct Block {
        uint8_t e;
        uint8_t qs[16];
    };
    static_assert(sizeof(Block) == 17);

    static float scale(const Block& b) { return e8m0_half(b.e); }
    // An exponent of 255 is NaN in OCP MX.
    static bool pack_scales(const Block& b, const PackedBlockRow& to) {
        to.byte(0, b.e);
        return b.e != 255;
    }
};

}  // namespace formats
}  // namespace edgellm
