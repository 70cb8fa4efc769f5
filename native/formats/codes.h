// SPDX-License-Identifier: MIT
// Replacing the codes of blocks and leaving their scales, for encoders that choose codes one by one.
// Codes count from the format's lowest level.
#pragma once

#include <cstdint>

#include "formats/block32.h"
#include "formats/iq4_xs.h"
#include "formats/k_quants.h"

namespace edgellm {

// Nibbles: byte i holds those of values i and i + 16. Fifth bits: bit i for value i.
inline void store_nibbles(const uint8_t* codes, uint8_t* qs) {
    for (int i = 0; i < 16; ++i) qs[i] = static_cast<uint8_t>((codes[i] & 15) | codes[i + 16] << 4);
}
inline void store_fifth_bits(const uint8_t* codes, uint8_t* qh) {
    for (int i = 0; i < 4; ++i) {
        int bits = 0;
        for (int j = 0; j < 8; ++j) bits |= (codes[8 * i + j] >> 4) << j;
        qh[i] = static_cast<uint8_t>(bits);
    }
}

inline void store_codes(const uint8_t* codes, formats::Q4_0::Block& b) {
    store_nibbles(codes, b.qs);
}
inline void store_codes(const uint8_t* codes, formats::Q4_1::Block& b) {
    store_nibbles(codes, b.qs);
}
inline void store_codes(const uint8_t* codes, formats::IQ4_NL::Block& b) {
    store_nibbles(codes, b.qs);
}
inline void store_codes(const uint8_t* codes, formats::Q5_0::Block& b) {
    store_nibbles(codes, b.qs);
    store_fifth_bits(codes, b.qh);
}
inline void store_codes(const uint8_t* codes, formats::Q5_1::Block& b) {
    store_nibbles(codes, b.qs);
    store_fifth_bits(codes, b.qh);
}
inline void store_codes(const uint8_t* codes, formats::IQ4_XS::Block& b) {
    for (int j = 0; j < 8; ++j) store_nibbles(codes + 32 * j, b.qs + 16 * j);
}

// Bit `at` and up of 256 codes: bit j of byte i for value 32 j + i.
inline void store_high_bits(const uint8_t* codes, int at, uint8_t* planes) {
    for (int i = 0; i < 32; ++i) {
        int bits = 0;
        for (int j = 0; j < 8; ++j) bits |= (codes[32 * j + i] >> at) << j;
        planes[i] = static_cast<uint8_t>(bits);
    }
}

inline void store_codes(const uint8_t* codes, formats::Q2_K::Block& b) {
    store_two_bits(codes, b.qs);
}
inline void store_codes(const uint8_t* codes, formats::Q3_K::Block& b) {
    store_two_bits(codes, b.qs);
    store_high_bits(codes, 2, b.hmask);
}
inline void store_codes(const uint8_t* codes, formats::Q4_K::Block& b) {
    store_four_bits(codes, b.qs);
}
inline void store_codes(const uint8_t* codes, formats::Q5_K::Block& b) {
    store_four_bits(codes, b.qs);
    store_high_bits(codes, 4, b.qh);
}
// A Q6_K block is stored whole: its scales are plain bytes, which stay.
inline void store_codes(const uint8_t* codes, formats::Q6_K::Block& b) {
    EncodedSuper all;
    all.d = load_half(b.d);
    for (int i = 0; i < 16; ++i) all.scale[i] = b.scales[i];
    std::memcpy(all.codes, codes, 256);
    formats::Q6_K::store(all, b);
}

}  // namespace edgellm
