// SPDX-License-Identifier: MIT
// F32, F16, BF16: one value per block, little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/half.h"

namespace edgellm {

inline uint16_t load_u16(const uint8_t* bytes) {
    uint16_t v;
    std::memcpy(&v, bytes, 2);
    return v;
}

inline uint32_t load_u32(const uint8_t* bytes) {
    uint32_t v;
    std::memcpy(&v, bytes, 4);
    return v;
}

inline float load_half(const uint8_t* bytes) {
    return half_to_float(load_u16(bytes));
}

inline void decode_f32(const uint8_t* bytes, size_t n, float* out) {
    std::memcpy(out, bytes, n * 4);
}

inline void decode_f16(const uint8_t* bytes, size_t n, float* out) {
    for (size_t i = 0; i < n; ++i) out[i] = load_half(bytes + 2 * i);
}

inline void decode_bf16(const uint8_t* bytes, size_t n, float* out) {
    for (size_t i = 0; i < n; ++i) out[i] = bf16_to_float(load_u16(bytes + 2 * i));
}

}  // namespace edgellm
