// SPDX-License-Identifier: MIT
// Formats of 32 values with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4.
// 4-bit codes: byte i holds value i (low nibble) and value i + 16 (high nibble).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "formats/floats.h"
#include "formats/levels.h"

namespace edgellm {

// Halves are kept as bytes: blocks lie at any address of a file.
struct BlockQ4_0 {  // d * (q - 8)
    uint8_t d[2];
    uint8_t qs[16];
};
struct BlockQ4_1 {  // d * q + m
    uint8_t d[2];
    uint8_t m[2];
    uint8_t qs[16];
};
struct BlockQ5_0 {  // d * (q - 16); qh: fifth bits, bit i for value i
    uint8_t d[2];
    uint8_t qh[4];
    uint8_t qs[16];
};
struct BlockQ5_1 {  // d * q + m
    uint8_t d[2];
    uint8_t m[2];
    uint8_t qh[4];
    uint8_t qs[16];
};
struct BlockQ8_0 {  // d * q
    uint8_t d[2];
    int8_t qs[32];
};
struct BlockIQ4_NL {  // d * kIQ4Levels[q]
    uint8_t d[2];
    uint8_t qs[16];
};
struct BlockMXFP4 {  // 2^(e - 128) * kMXFP4Levels[q]
    uint8_t e;
    uint8_t qs[16];
};
static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34 && sizeof(BlockIQ4_NL) == 18);
static_assert(sizeof(BlockMXFP4) == 17);

// 2^(e - 128): the e8m0 scale 2^(e - 127), halved because the levels are doubled. The first two are
// subnormal.
inline float mxfp4_scale(uint8_t e) {
    return std::bit_cast<float>(e < 2 ? 0x00200000u << e : (uint32_t{e} - 1) << 23);
}

inline int nibble(const uint8_t* qs, int i) {
    return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4;
}
inline int fifth_bit(const uint8_t* qh, int i) {
    return ((qh[i / 8] >> (i % 8)) & 1) << 4;
}

template <class Block, class Value>
void decode_blocks32(const uint8_t* bytes, size_t n_blocks, float* out, Value value) {
    for (size_t b = 0; b < n_blocks; ++b) {
        Block block;
        std::memcpy(&block, bytes + b * sizeof(Block), sizeof(Block));
        for (int i = 0; i < 32; ++i) out[32 * b + i] = value(block, i);
    }
}

inline void decode_q4_0(const uint8_t* bytes, size_t n, float* out) {
    decode_blocks32<BlockQ4_0>(bytes, n, out, [](const BlockQ4_0& b, int i) {
        return load_half(b.d) * static_cast<float>(nibble(b.qs, i) - 8);
    });
}

inline void decode_q4_1(const uint8_t* bytes, size_t n, float* out) {
    decode_blocks32<BlockQ4_1>(bytes, n, out, [](const BlockQ4_1& b, int i) {
        return load_half(b.d) * static_cast<float>(nibble(b.qs, i)) + load_half(b.m);
    });
}

inline void decode_q5_0(const uint8_t* bytes, size_t n, float* out) {
    decode_blocks32<BlockQ5_0>(bytes, n, out, [](const BlockQ5_0& b, int i) {
        return load_half(b.d) * static_cast<float>((nibble(b.qs, i) | fifth_bit(b.qh, i)) - 16);
    });
}

inline void decode_q5_1(const uint8_t* bytes, size_t n, float* out) {
    decode_blocks32<BlockQ5_1>(bytes, n, out, [](const BlockQ5_1& b, int i) {
        return load_half(b.d) * static_cast<float>(nibble(b.qs, i) | fifth_bit(b.qh, i)) + load_half(b.m);
    });
}

inline void decode_q8_0(const uint8_t* bytes, size_t n, float* out) {
    decode_blocks32<BlockQ8_0>(bytes, n, out, [](const BlockQ8_0& b, int i) {
        return load_half(b.d) * static_cast<float>(b.qs[i]);
    });
}

inline void decode_iq4_nl(const uint8_t* bytes, size_t n, float* out) {
    decode_blocks32<BlockIQ4_NL>(bytes, n, out, [](const BlockIQ4_NL& b, int i) {
        return load_half(b.d) * static_cast<float>(kIQ4Levels[nibble(b.qs, i)]);
    });
}

inline void decode_mxfp4(const uint8_t* bytes, size_t n, float* out) {
    decode_blocks32<BlockMXFP4>(bytes, n, out, [](const BlockMXFP4& b, int i) {
        return mxfp4_scale(b.e) * static_cast<float>(kMXFP4Levels[nibble(b.qs, i)]);
    });
}

}  // namespace edgellm
