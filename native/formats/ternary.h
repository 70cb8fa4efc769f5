// SPDX-License-Identifier: MIT
// TQ1_0 and TQ2_0: 256 values of -1, 0, 1 under one scale.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "formats/expanded.h"
#include "formats/floats.h"

namespace edgellm {

struct BlockTQ1_0 {  // d * (trit - 1); a byte holds five trits, or four in qh, as a fraction of 256
    uint8_t qs[48];
    uint8_t qh[4];
    uint8_t d[2];
};
struct BlockTQ2_0 {  // d * (q - 1), laid out as the low bits of Q2_K
    uint8_t qs[64];
    uint8_t d[2];
};
static_assert(sizeof(BlockTQ1_0) == 54 && sizeof(BlockTQ2_0) == 66);

inline void expand_ternary_scale(float d, ExpandedBlock* out) {
    out->d = d;
    out->dmin = 0.0f;
    std::memset(out->scale, 1, 16);
    std::memset(out->minimum, 0, 16);
}

inline void expand_tq1_0(const uint8_t* bytes, ExpandedBlock* out) {
    BlockTQ1_0 b;
    std::memcpy(&b, bytes, sizeof(b));
    expand_ternary_scale(load_half(b.d), out);
    static constexpr int kPowers[5] = {1, 3, 9, 27, 81};
    // Trit n of a byte: multiply by 3^n modulo 256, then take the top base-3 digit.
    const auto trit = [](uint8_t byte, int n) {
        return static_cast<uint8_t>((static_cast<uint8_t>(byte * kPowers[n]) * 3) >> 8);
    };
    for (int i = 0; i < 256; ++i) {
        if (i < 160) {
            out->code[i] = trit(b.qs[i % 32], i / 32);
        } else if (i < 240) {
            out->code[i] = trit(b.qs[32 + (i - 160) % 16], (i - 160) / 16);
        } else {
            out->code[i] = trit(b.qh[(i - 240) % 4], (i - 240) / 4);
        }
    }
}

inline void expand_tq2_0(const uint8_t* bytes, ExpandedBlock* out) {
    BlockTQ2_0 b;
    std::memcpy(&b, bytes, sizeof(b));
    expand_ternary_scale(load_half(b.d), out);
    for (int i = 0; i < 256; ++i) out->code[i] = b.qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}

}  // namespace edgellm
