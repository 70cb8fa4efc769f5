// SPDX-License-Identifier: MIT
// K-quants: 256 values in 16 or 8 sub-blocks, integer scales (and minimums) under one half-precision scale.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "formats/expanded.h"
#include "formats/floats.h"

namespace edgellm {

struct BlockQ2_K {  // d * (scale & 15) * q - dmin * (scale >> 4), per 16 values
    uint8_t scales[16];
    uint8_t qs[64];  // 2 x 32 bytes; byte i of a half holds values i, i + 32, i + 64, i + 96 of its 128, low
                     // bits first
    uint8_t d[2];
    uint8_t dmin[2];
};
struct BlockQ3_K {      // d * (scale - 32) * (q - 4), per 16 values
    uint8_t hmask[32];  // third bits: bit j of byte i for value 32 j + i
    uint8_t qs[64];     // low two bits, as in Q2_K
    uint8_t scales[12];
    uint8_t d[2];
};
struct BlockQ4_K {  // d * scale * q - dmin * minimum, per 32 values
    uint8_t d[2];
    uint8_t dmin[2];
    uint8_t scales[12];
    uint8_t qs[128];  // 4 x 32 bytes; byte i holds values i (low nibble) and i + 32 of its 64
};
struct BlockQ5_K {  // as Q4_K
    uint8_t d[2];
    uint8_t dmin[2];
    uint8_t scales[12];
    uint8_t qh[32];  // fifth bits: bit j of byte i for value 32 j + i
    uint8_t qs[128];
};
struct BlockQ6_K {    // d * scale * (q - 32), per 16 values
    uint8_t ql[128];  // 2 x 64 bytes; byte i holds the low nibbles of values i (low) and i + 64 of its 128
    uint8_t qh[64];  // 2 x 32 bytes; byte i holds the high bits of values i, i + 32, i + 64, i + 96, low bits
                     // first
    int8_t scales[16];
    uint8_t d[2];
};
static_assert(sizeof(BlockQ2_K) == 84 && sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144);
static_assert(sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210);

// The eight 6-bit scales and minimums of Q4_K and Q5_K.
inline void unpack_k_scales(const uint8_t* packed, uint8_t* scale, uint8_t* minimum) {
    for (int j = 0; j < 4; ++j) {
        scale[j] = packed[j] & 63;
        minimum[j] = packed[j + 4] & 63;
        scale[j + 4] = static_cast<uint8_t>((packed[j + 8] & 15) | (packed[j] >> 6) << 4);
        minimum[j + 4] = static_cast<uint8_t>(packed[j + 8] >> 4 | (packed[j + 4] >> 6) << 4);
    }
}

inline void expand_q2_k(const uint8_t* bytes, ExpandedBlock* out) {
    BlockQ2_K b;
    std::memcpy(&b, bytes, sizeof(b));
    out->d = load_half(b.d);
    out->dmin = load_half(b.dmin);
    for (int i = 0; i < 16; ++i) {
        out->scale[i] = b.scales[i] & 15;
        out->minimum[i] = b.scales[i] >> 4;
    }
    for (int i = 0; i < 256; ++i) out->code[i] = b.qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

inline void expand_q3_k(const uint8_t* bytes, ExpandedBlock* out) {
    BlockQ3_K b;
    std::memcpy(&b, bytes, sizeof(b));
    out->d = load_half(b.d);
    out->dmin = 0.0f;
    for (int i = 0; i < 16; ++i) {
        const int low = i < 8 ? b.scales[i] & 15 : b.scales[i - 8] >> 4;
        const int high = b.scales[8 + i % 4] >> (i / 4 * 2) & 3;
        out->scale[i] = static_cast<int8_t>((low | high << 4) - 32);
        out->minimum[i] = 0;
    }
    for (int i = 0; i < 256; ++i) {
        const int low = b.qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        out->code[i] = static_cast<uint8_t>(low | (b.hmask[i % 32] >> (i / 32) & 1) << 2);
    }
}

template <class Block, class Value>
void decode_blocks_q45k(const uint8_t* bytes, size_t n_blocks, float* out, Value value) {
    for (size_t n = 0; n < n_blocks; ++n) {
        Block b;
        std::memcpy(&b, bytes + n * sizeof(b), sizeof(b));
        uint8_t scale[8], minimum[8];
        unpack_k_scales(b.scales, scale, minimum);
        for (int i = 0; i < 256; ++i) {
            const float d = load_half(b.d) * static_cast<float>(scale[i / 32]);
            const float m = load_half(b.dmin) * static_cast<float>(minimum[i / 32]);
            out[256 * n + i] = d * static_cast<float>(value(b, i)) - m;
        }
    }
}

inline void decode_q4_k(const uint8_t* bytes, size_t n, float* out) {
    decode_blocks_q45k<BlockQ4_K>(bytes, n, out, [](const BlockQ4_K& b, int i) {
        return b.qs[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
    });
}

inline void decode_q5_k(const uint8_t* bytes, size_t n, float* out) {
    decode_blocks_q45k<BlockQ5_K>(bytes, n, out, [](const BlockQ5_K& b, int i) {
        return (b.qs[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15) | (b.qh[i % 32] >> (i / 32) & 1) << 4;
    });
}

inline void decode_q6_k(const uint8_t* bytes, size_t n_blocks, float* out) {
    for (size_t n = 0; n < n_blocks; ++n) {
        BlockQ6_K b;
        std::memcpy(&b, bytes + n * sizeof(b), sizeof(b));
        for (int i = 0; i < 256; ++i) {
            const int half = i / 128, j = i % 128;
            const int low = b.ql[half * 64 + j % 64] >> (j / 64 * 4) & 15;
            const int high = b.qh[half * 32 + j % 32] >> (j / 32 * 2) & 3;
            const float d = load_half(b.d) * static_cast<float>(b.scales[i / 16]);
            out[256 * n + i] = d * static_cast<float>((low | high << 4) - 32);
        }
    }
}

}  // namespace edgellm
