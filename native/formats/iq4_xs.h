// SPDX-License-Identifier: MIT
// IQ4_XS: the levels of IQ4_NL, 256 values, a 6-bit scale for each 32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "formats/block32.h"

namespace edgellm {

struct BlockIQ4_XS {  // d * (scale - 32) * kIQ4Levels[q]
    uint8_t d[2];
    uint8_t scales_h[2];
    uint8_t scales_l[4];
    uint8_t qs[128];  // 8 x 16 bytes, each as in IQ4_NL
};
static_assert(sizeof(BlockIQ4_XS) == 136);

inline int iq4_xs_scale(const BlockIQ4_XS& b, int j) {
    const int low = b.scales_l[j / 2] >> (j % 2 * 4) & 15;
    const int high = load_u16(b.scales_h) >> (2 * j) & 3;
    return (low | high << 4) - 32;
}

inline void decode_iq4_xs(const uint8_t* bytes, size_t n_blocks, float* out) {
    for (size_t n = 0; n < n_blocks; ++n) {
        BlockIQ4_XS b;
        std::memcpy(&b, bytes + n * sizeof(b), sizeof(b));
        for (int i = 0; i < 256; ++i) {
            const float d = load_half(b.d) * static_cast<float>(iq4_xs_scale(b, i / 32));
            out[256 * n + i] = d * static_cast<float>(kIQ4Levels[nibble(b.qs + i / 32 * 16, i % 32)]);
        }
    }
}

}  // namespace edgellm
