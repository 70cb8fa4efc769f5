// SPDX-License-Identifier: MIT
// Packed panels, read as the tiles of aarch64 want them. Codes are signed bytes; those of five and six bits
// lose their zero point while they are put together, which costs less than the bits alone. A header's scales
// become floats once for its blocks.
#pragma once

#include "kernels/linear/arm.h"

namespace edgellm {
namespace {

// Properties that tiles depend on. Formats that agree in them share their tiles.
struct CodeTraits {
    int magnitude;  // codes are from -magnitude to magnitude, a class of the set's
    bool words;     // an integer for 16 columns multiplies their dot
    bool pairs;     // a scale for 16 columns
    bool minimum;   // a minimum for 32 columns, or with words for 16
};

// Of unsigned codes less a zero point, or of signed ones.
template <class Source>
constexpr int largest_magnitude(int centre) {
    using F = typename Source::Format;
    int largest = 128;
    if constexpr (!Source::kSignedCodes) {
        largest = std::max(centre, Source::kMax - centre);
    } else if constexpr (kHasLevels<F>) {
        largest = 0;
        for (int i = 0; i < 16; ++i) largest = std::max({largest, int{F::kLevels[i]}, -int{F::kLevels[i]}});
    }
    return largest;
}

template <class S, class Source>
constexpr CodeTraits traits_of(int centre) {
    constexpr bool kWords = Source::kHalfMinimums;
    return {S::code_class(largest_magnitude<Source>(centre)), kWords, Source::kPairs,
            kWords || Source::kHasMinimum};
}
// Fills a register from memory, which no vector pipe has to do.
EDGELLM_INLINE uint32x4_t load_register(const uint32_t (&from)[4]) {
    uint32x4_t v;
    __asm__ volatile("ldr %q0, %1" : "=w"(v) : "m"(*reinterpret_cast<const uint32x4_t*>(from)));
    return v;
}

// ---- Codes ----

// kCentre: the zero point that read() has subtracted.
template <class Source>
struct CodeReader {
    static constexpr int kCentre = 0;

    EDGELLM_INLINE static int8x16_t read(const Source& source, int group, int part) {
        return vreinterpretq_s8_u8(source.codes(group, part));
    }
};

// The group's nibbles in the low bits, `high` in the others.
EDGELLM_INLINE int8x16_t insert_nibbles(int8x16_t high, const uint8_t* planes, int group) {
    const uint8x16_t nibbles = vld1q_u8(planes + 64 * (group % 4));
    const uint8x16_t upper = vreinterpretq_u8_s8(high);
    return vreinterpretq_s8_u8(group < 4 ? vbslq_u8(vdupq_n_u8(0xf0), upper, nibbles)
                                         : vsriq_n_u8(upper, nibbles, 4));
}

template <class Source>
EDGELLM_INLINE const uint8_t* codes_of(const Source& source, int part) {
    return source.block + Source::Scales::kBytes + part * 16;
}

// code - 16: the upper four bits are set where the fifth bit is not.
template <class Source>
    requires(std::is_same_v<typename Source::Codes, FiveBits> && Source::kMax == FiveBits::kMax)
struct CodeReader<Source> {
    static constexpr int kCentre = 16;

    EDGELLM_INLINE static int8x16_t read(const Source& source, int group, int part) {
        const uint8_t* codes = codes_of(source, part);
        const uint8x16_t missing = vmvnq_u8(vld1q_u8(codes + 256));
        const uint8x16_t high = vtstq_u8(missing, vdupq_n_u8(static_cast<uint8_t>(1 << group)));
        return insert_nibbles(vreinterpretq_s8_u8(high), codes, group);
    }
};

// code - 32: the upper two bits less 2, with their sign.
template <class Source>
    requires(std::is_same_v<typename Source::Codes, SixBits>)
struct CodeReader<Source> {
    static constexpr int kCentre = 32;

    EDGELLM_INLINE static int8x16_t read(const Source& source, int group, int part) {
        const uint8_t* codes = codes_of(source, part);
        const uint8x16_t bits = veorq_u8(vld1q_u8(codes + 256 + 64 * (group / 4)), vdupq_n_u8(0xaa));
        const int8x16_t top = vreinterpretq_s8_u8(bits << (6 - 2 * (group % 4)));
        return insert_nibbles(top >> 2, codes, group);
    }
};

// ---- Scales ----

// 2^23 + byte as floats, for the bytes of a part's four rows. Conversions take longer.
alignas(16) constexpr uint32_t kByteOrigins[4] = {0x4b000000, 0x4b000000, 0x4b000000, 0x4b000000};
alignas(16) constexpr uint32_t kByteLanes[4][4] = {{0xffffff00, 0xffffff01, 0xffffff02, 0xffffff03},
                                                   {0xffffff04, 0xffffff05, 0xffffff06, 0xffffff07},
                                                   {0xffffff08, 0xffffff09, 0xffffff0a, 0xffffff0b},
                                                   {0xffffff0c, 0xffffff0d, 0xffffff0e, 0xffffff0f}};
EDGELLM_INLINE float32x4_t above_2_23(uint8x16_t bytes, int part) {
    const uint8x16_t lanes = vreinterpretq_u8_u32(vld1q_u32(kByteLanes[part]));
    return vreinterpretq_f32_u8(vqtbx1q_u8(vreinterpretq_u8_u32(load_register(kByteOrigins)), bytes, lanes));
}
// Signed bytes.
EDGELLM_INLINE float32x4_t signed_floats(const uint8_t* bytes, int part) {
    const float32x4_t shifted = above_2_23(NeonRegisters::flip_sign(vld1q_u8(bytes)), part);
    return vsubq_f32(shifted, vdupq_n_f32(0x1p23f + 128.0f));
}

// A header's factors of unsigned bytes: product(bytes) is factor * byte, rounded once.
template <int kUnits>
struct ByteFactors {
    float32x4_t factor[kUnits];
    uint32_t start[kUnits][4];  // -2^23 * factor, as bits

    EDGELLM_INLINE void set(int unit, float32x4_t value) {
        factor[unit] = value;
        vst1q_u32(start[unit], vreinterpretq_u32_f32(vmulq_n_f32(value, -0x1p23f)));
    }
    EDGELLM_INLINE float32x4_t product(const uint8_t* bytes, int unit, int part) const {
        const float32x4_t v = vreinterpretq_f32_u32(load_register(start[unit]));
        return vfmaq_f32(v, above_2_23(vld1q_u8(bytes), part), factor[unit]);
    }
};

// Scales and minimums of a block, without a header. Arguments: half of the block, unit, part of the panel.
template <class Source, class Scales, int kUnits>
struct ScaleReader {
    EDGELLM_INLINE void read_header(const Source&, int) {}
    EDGELLM_INLINE float32x4_t scale(const Source& source, int half, int, int part) const {
        if constexpr (Source::kPairs) {
            return source.pair_scale(half, part);
        } else {
            return source.scale(part);
        }
    }
    EDGELLM_INLINE float32x4_t minimum(const Source& source, int, int, int part) const {
        return source.minimum(part);
    }
};

template <class Source, int kUnits>
struct ScaleReader<Source, SuperScalesMinimums, kUnits> {
    ByteFactors<kUnits> scales, minimums;

    EDGELLM_INLINE void read_header(const Source& source, int first) {
        for (int unit = 0; unit < kUnits; ++unit) {
            const uint8_t* header = source.header + 8 * (first + unit);
            scales.set(unit, NeonRegisters::load_halves(header));
            minimums.set(unit, vnegq_f32(NeonRegisters::load_halves(header + 32)));
        }
    }
    EDGELLM_INLINE float32x4_t scale(const Source& source, int, int unit, int part) const {
        return scales.product(source.block, unit, part);
    }
    EDGELLM_INLINE float32x4_t minimum(const Source& source, int, int unit, int part) const {
        return minimums.product(source.block + 16, unit, part);
    }
};

// Scales d * signed byte, of the block or of each half.
template <class Source, class Scales, int kUnits>
    requires(std::is_same_v<Scales, SuperScales> || std::is_same_v<Scales, SuperPairScales>)
struct ScaleReader<Source, Scales, kUnits> {
    float32x4_t factor[kUnits];

    EDGELLM_INLINE void read_header(const Source& source, int first) {
        for (int unit = 0; unit < kUnits; ++unit)
            factor[unit] = NeonRegisters::load_halves(source.header + 8 * (first + unit));
    }
    EDGELLM_INLINE float32x4_t scale(const Source& source, int half, int unit, int part) const {
        const uint8_t* bytes = source.block + (Source::kPairs ? 16 * half : 0);
        return vmulq_f32(factor[unit], signed_floats(bytes, part));
    }
};

template <class Source, int kUnits>
struct ScaleReader<Source, ExpandedScales, kUnits> {
    float32x4_t scales[kUnits];
    ByteFactors<kUnits> minimums;

    EDGELLM_INLINE void read_header(const Source& source, int first) {
        const auto* header = reinterpret_cast<const float*>(source.header) + 4 * first;
        for (int unit = 0; unit < kUnits; ++unit) {
            scales[unit] = vld1q_f32(header + 4 * unit);
            minimums.set(unit, vnegq_f32(vld1q_f32(header + 16 + 4 * unit)));
        }
    }
    EDGELLM_INLINE float32x4_t scale(const Source&, int, int unit, int) const { return scales[unit]; }
    // Of both halves, and what the second one has more.
    EDGELLM_INLINE float32x4_t minimum(const Source& source, int half, int unit, int part) const {
        const float32x4_t low = minimums.product(source.block + 32, unit, part);
        return half == 0 ? low : vsubq_f32(minimums.product(source.block + 48, unit, part), low);
    }
};

// ---- Panels ----

// Parts of a panel as it is packed, from part `first` on: a unit is a part.
template <class S, class Source, int kParts>
struct PackedRows {
    using Reader = CodeReader<Source>;
    static constexpr CodeTraits kTraits = traits_of<S, Source>(Reader::kCentre);
    static constexpr bool kHasMinimum = kTraits.minimum, kHalvesShareCodes = true;
    static constexpr int kUnits = kParts;
    static constexpr int kZeroPoint = Source::kCentre - Reader::kCentre;  // left in codes

    Source source;
    int first;
    ScaleReader<Source, typename Source::Scales, kParts> scales{};

    PackedRows(const Source& source_, int first_) : source(source_), first(first_) {}

    EDGELLM_INLINE void begin() {
        if (source.index % kHeaderBlocks == 0) scales.read_header(source, first);
    }
    EDGELLM_INLINE void next() { source.next(); }
    EDGELLM_INLINE int8x16_t codes(int half, int step, int unit) const {
        return Reader::read(source, 4 * half + step, first + unit);
    }
    EDGELLM_INLINE float32x4_t scale(int half, int unit) const {
        return scales.scale(source, half, unit, first + unit);
    }
    EDGELLM_INLINE float32x4_t minimum(int half, int unit) const {
        return scales.minimum(source, half, unit, first + unit);
    }
    // The integer that multiplies a dot of 16 columns.
    EDGELLM_INLINE float32x4_t factor(int half, int unit) const {
        return signed_floats(source.block + 16 * half, first + unit);
    }
};

}  // namespace
}  // namespace edgellm
