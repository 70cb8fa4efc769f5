// SPDX-License-Identifier: MIT
// F32, F16, BF16: one number to a block, little-endian. Also reading and writing of numbers in blocks.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/half.h"
#include "base/inline.h"
#include "formats/encoding.h"
#include "formats/formats.h"

namespace edgellm {

EDGELLM_INLINE uint16_t load_u16(const uint8_t* bytes) {
    uint16_t v;
    std::memcpy(&v, bytes, 2);
    return v;
}

EDGELLM_INLINE uint32_t load_u32(const uint8_t* bytes) {
    uint32_t v;
    std::memcpy(&v, bytes, 4);
    return v;
}

EDGELLM_INLINE float load_half(const uint8_t* bytes) {
    return half_to_float(load_u16(bytes));
}

EDGELLM_INLINE void store_half(uint8_t* bytes, float value) {
    const uint16_t half = float_to_half(value);
    std::memcpy(bytes, &half, 2);
}

EDGELLM_INLINE bool finite_half(const uint8_t* bytes) {
    return (load_u16(bytes) & 0x7c00u) != 0x7c00u;
}

namespace formats {

struct F32 {
    static constexpr const char* kName = "F32";
    static constexpr GGMLType kType{0};
    static constexpr uint32_t kBlockSize = 1, kExponentMask = 0x7f800000u;
    static constexpr NumberEncoding kEncoding{};
    using Block = uint32_t;

    EDGELLM_INLINE static float value(Block bits, int) { return std::bit_cast<float>(bits); }
    EDGELLM_INLINE static Block round(float value) { return std::bit_cast<Block>(value); }

    // A register of values.
    template <class S>
    EDGELLM_INLINE static typename S::Floats load(const uint8_t* p) {
        return S::load_floats(reinterpret_cast<const float*>(p));
    }
};

struct F16 {
    static constexpr const char* kName = "F16";
    static constexpr GGMLType kType{1};
    static constexpr uint32_t kBlockSize = 1, kExponentMask = 0x7c00u;
    static constexpr NumberEncoding kEncoding{};
    using Block = uint16_t;

    EDGELLM_INLINE static float value(Block bits, int) { return half_to_float(bits); }
    EDGELLM_INLINE static Block round(float value) { return float_to_half(value); }

    // A register of values.
    template <class S>
    EDGELLM_INLINE static typename S::Floats load(const uint8_t* p) {
        return S::load_halves(p);
    }
};

struct BF16 {
    static constexpr const char* kName = "BF16";
    static constexpr GGMLType kType{30};
    static constexpr uint32_t kBlockSize = 1, kExponentMask = 0x7f80u;
    static constexpr NumberEncoding kEncoding{};
    using Block = uint16_t;

    EDGELLM_INLINE static float value(Block bits, int) { return bf16_to_float(bits); }
    EDGELLM_INLINE static Block round(float value) { return float_to_bf16(value); }

    // A register of values.
    template <class S>
    EDGELLM_INLINE static typename S::Floats load(const uint8_t* p) {
        return S::load_bfloats(p);
    }
};

}  // namespace formats
}  // namespace edgellm
