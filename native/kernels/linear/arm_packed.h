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
    constexpr bool kWords = Source::kIntegers;
    return {S::code_class(largest_magnitude<Source>(centre)), kWords, Source::kPairs,
            kWords || Source::kHasMinimum};
}
// Fills a register from memory, which no vector pipe has to do.
EDGELLM_INLINE uint32x4_t load_register(const uint32_t (&from)[4]) {
    uint32x4_t v;
    __asm__ volatile("ldr %q0, %1" : "=w"(v) : "m"(*reinterpret_cast<const uint32x4_t*>(from)));
    return v;
}

// Up to four registers from consecutive bytes, in place and here: the compiler would else load a block's
// codes first and spill them. The address goes on by `step` bytes. Tiles begin with a barrier for the memory.
template <int n>
EDGELLM_INLINE void load_registers(const uint8_t*& from, uint8x16_t (&to)[n], size_t step = 16 * n) {
#if defined(__clang__)
    for (int i = 0; i < n; ++i) to[i] = vld1q_u8(from + 16 * i);
    from += step;
#else
    if constexpr (n == 4) {
        uint8x16x4_t v;
        __asm__ volatile("ld1 {%S0.16b - %V0.16b}, [%1], %2" : "=w"(v), "+r"(from) : "I"(64));
        for (int i = 0; i < n; ++i) to[i] = v.val[i];
        from += step - 64;
    } else if constexpr (n == 2) {
        uint8x16x2_t v;
        __asm__ volatile("ld1 {%S0.16b - %T0.16b}, [%1], %2" : "=w"(v), "+r"(from) : "I"(32));
        for (int i = 0; i < n; ++i) to[i] = v.val[i];
        from += step - 32;
    } else {
        for (int i = 0; i < n; ++i) __asm__ volatile("ldr %q0, [%1], #16" : "=w"(to[i]), "+r"(from));
        from += step - 16 * n;
    }
#endif
}

// ---- Codes ----

// Codes of a register from the planes that they lie in. kCentre: the zero point that they have lost. `high`
// reads what a half's groups share.
template <class Source>
struct CodeReader;

template <class Source>
concept SplitInPlanes = requires(const Source& source) { source.lower; };
template <class Source, class Codes>
concept HasCodes = std::is_same_v<typename Source::Codes, Codes> && !SplitInPlanes<Source>;

// Bit 7 of a code from `high`, bits 3 to 6 from a nibble, 0 to 2 from the lower bits of the block at `lower`
// (pack.h says where they lie). Shifts that insert leave the other bits as they are.
template <class Source>
    requires SplitInPlanes<Source>
struct CodeReader<Source> {
    static constexpr int kCentre = 0;
    static constexpr bool kHalvesShareCodes = true;
    // Set where bit 7 of a code with 128 added is not: it is the sign of the code without.
    EDGELLM_INLINE static uint8x16_t high(const uint8_t* codes, int) {
        return vmvnq_u8(vld1q_u8(codes + 256));
    }
    EDGELLM_INLINE static int8x16_t codes(uint8x16_t nibbles, uint8x16_t high, const uint8_t* lower,
                                          int group) {
        const uint8x16_t sign = high << (7 - group), low = lower_bits(lower, group);
        const uint8x16_t v = group < 4 ? vbslq_u8(vdupq_n_u8(0x80), sign, vsliq_n_u8(low, nibbles, 3))
                                       : vbslq_u8(vdupq_n_u8(0x07), low, vsriq_n_u8(sign, nibbles, 1));
        return vreinterpretq_s8_u8(v);
    }

  private:
    // In bits 0 to 2; others are above them.
    EDGELLM_INLINE static uint8x16_t lower_bits(const uint8_t* lower, int group) {
        if (group < 6) return vld1q_u8(lower + 64 * (group / 2)) >> (group % 2 * 3);
        const uint8x16_t third = vld1q_u8(lower + 128) >> (group - 2);
        return vbslq_u8(vdupq_n_u8(0x04), third, vld1q_u8(lower + 64 * (group - 6)) >> 6);
    }
};

template <class Source>
    requires HasCodes<Source, SignedBytes>
struct CodeReader<Source> {
    static constexpr int kCentre = 0;
    static constexpr bool kHalvesShareCodes = false;
    EDGELLM_INLINE static uint8x16_t high(const uint8_t*, int) { return vdupq_n_u8(0); }
    EDGELLM_INLINE static int8x16_t codes(uint8x16_t bytes, uint8x16_t, int) {
        return vreinterpretq_s8_u8(bytes);
    }
};

template <class Source>
    requires HasCodes<Source, Nibbles>
struct CodeReader<Source> {
    static constexpr int kCentre = 0;
    static constexpr bool kHalvesShareCodes = true;
    EDGELLM_INLINE static uint8x16_t high(const uint8_t*, int) { return vdupq_n_u8(0); }
    EDGELLM_INLINE static int8x16_t codes(uint8x16_t nibbles, uint8x16_t, int group) {
        using S = NeonRegisters;
        const uint8x16_t v = group < 4 ? S::low_nibbles(nibbles) : S::high_nibbles(nibbles);
        if constexpr (kHasLevels<typename Source::Format>) {
            return vreinterpretq_s8_u8(S::lookup<typename Source::Format, 0>(v));
        } else {
            return vreinterpretq_s8_u8(v);
        }
    }
};

// Codes whose bytes are one plane for each half.
template <class Reader>
concept HalfIsPlane = requires { Reader::kHalfIsPlane; };

template <class Source>
    requires HasCodes<Source, TwoBits>
struct CodeReader<Source> {
    static constexpr int kCentre = 0;
    static constexpr bool kHalvesShareCodes = false, kHalfIsPlane = true;
    static_assert(Source::Format::kLevels[0] == 0 && Source::Format::kLevels[3] == 3);
    EDGELLM_INLINE static uint8x16_t high(const uint8_t*, int) { return vdupq_n_u8(0); }
    EDGELLM_INLINE static int8x16_t codes(uint8x16_t plane, uint8x16_t, int group) {
        return vreinterpretq_s8_u8(NeonRegisters::take_bits(plane, -2 * (group % 4), 0x03));
    }
};

// code - 4: the upper six bits are set where the third bit is not.
template <class Source>
    requires HasCodes<Source, ThreeBits>
struct CodeReader<Source> {
    static constexpr int kCentre = 0;  // levels have no zero point
    static constexpr bool kHalvesShareCodes = false, kHalfIsPlane = true;
    static_assert(Source::Format::kLevels[0] == -4 && Source::Format::kLevels[7] == 3);
    EDGELLM_INLINE static uint8x16_t high(const uint8_t* codes, int) {
        return vmvnq_u8(vld1q_u8(codes + 128));
    }
    EDGELLM_INLINE static int8x16_t codes(uint8x16_t plane, uint8x16_t missing, int group) {
        const uint8x16_t high = vtstq_u8(missing, vdupq_n_u8(static_cast<uint8_t>(1 << group)));
        const uint8x16_t low = group % 4 == 0 ? plane : plane >> (2 * (group % 4));
        return vreinterpretq_s8_u8(vbslq_u8(vdupq_n_u8(0xfc), high, low));
    }
};

// The group's nibbles in the low bits, `high` in the others.
EDGELLM_INLINE int8x16_t insert_nibbles(uint8x16_t high, uint8x16_t nibbles, int group) {
    return vreinterpretq_s8_u8(group < 4 ? vbslq_u8(vdupq_n_u8(0xf0), high, nibbles)
                                         : vsriq_n_u8(high, nibbles, 4));
}

// code - 16: the upper four bits are set where the fifth bit is not.
template <class Source>
    requires HasCodes<Source, FiveBits>
struct CodeReader<Source> {
    static constexpr int kCentre = 16;
    static constexpr bool kHalvesShareCodes = true;
    EDGELLM_INLINE static uint8x16_t high(const uint8_t* codes, int) {
        return vmvnq_u8(vld1q_u8(codes + 256));
    }
    EDGELLM_INLINE static int8x16_t codes(uint8x16_t nibbles, uint8x16_t missing, int group) {
        const uint8x16_t high = vtstq_u8(missing, vdupq_n_u8(static_cast<uint8_t>(1 << group)));
        return insert_nibbles(high, nibbles, group);
    }
};

// The upper two bits move to bits 4 and 5, with zeros above them, and the nibble takes the place of the bits
// below. Groups 0 and 2 of a plane share a mask.
template <class Source>
    requires HasCodes<Source, SixBits>
struct CodeReader<Source> {
    static constexpr int kCentre = 0;
    static constexpr bool kHalvesShareCodes = true;
    EDGELLM_INLINE static uint8x16_t high(const uint8_t* codes, int half) {
        return vld1q_u8(codes + 256 + 64 * half);
    }
    EDGELLM_INLINE static int8x16_t codes(uint8x16_t nibbles, uint8x16_t plane, int group) {
        const uint8x16_t even = vandq_u8(plane, vdupq_n_u8(0x33));
        const int k = group % 4;
        const uint8x16_t high = k == 0   ? even << 4
                                : k == 1 ? vandq_u8(plane << 2, vdupq_n_u8(0x30))
                                : k == 2 ? even
                                         : plane >> 2;
        return insert_nibbles(high, nibbles, group);
    }
};

// Codes of one group and part.
template <class Source>
EDGELLM_INLINE int8x16_t read_codes(const Source& source, int group, int part) {
    using Reader = CodeReader<Source>;
    const uint8_t* at = source.block + Source::Scales::kBytes + 16 * part;
    const int plane = HalfIsPlane<Reader> ? group / 4 : Reader::kHalvesShareCodes ? group % 4 : group;
    const uint8x16_t bytes = vld1q_u8(at + 64 * plane);
    const uint8x16_t high = Reader::high(at, group / 4);
    if constexpr (SplitInPlanes<Source>) {
        return Reader::codes(bytes, high, source.lower + 16 * part, group);
    } else {
        return Reader::codes(bytes, high, group);
    }
}

// Reads codes of kUnits parts from part `first` on: of all columns (kHalf -1) or a half, step by step. Where
// halves share bytes, a step is read for the first half and then for the second.
template <class Source, int kUnits, int kHalf>
class CodeCursor {
  public:
    using Reader = CodeReader<Source>;

    EDGELLM_INLINE CodeCursor(const Source& source, int first) : source_(source), first_(first) {
        at_ = source.block + Source::Scales::kBytes + 16 * first;
        static_assert(kHalf >= 0 || !std::is_same_v<typename Source::Codes, SixBits>);
        EDGELLM_UNROLL
        for (int unit = 0; unit < kUnits; ++unit) high_[unit] = Reader::high(at_ + 16 * unit, kHalf);
        if constexpr (!Reader::kHalvesShareCodes && kHalf == 1) at_ += HalfIsPlane<Reader> ? 64 : 256;
    }

    template <int half, int step>
    EDGELLM_INLINE void read(int8x16_t (&codes)[kUnits]) {
        constexpr bool kIsNew = HalfIsPlane<Reader>          ? step == 0
                                : !Reader::kHalvesShareCodes ? true
                                                             : kHalf >= 0 || half == 0;
        if constexpr (kIsNew) load_registers(at_, bytes_, 64);
        EDGELLM_UNROLL
        for (int unit = 0; unit < kUnits; ++unit) {
            if constexpr (SplitInPlanes<Source>) {
                codes[unit] = Reader::codes(bytes_[unit], high_[unit], source_.lower + 16 * (first_ + unit),
                                            4 * half + step);
            } else {
                codes[unit] = Reader::codes(bytes_[unit], high_[unit], 4 * half + step);
            }
        }
    }

  private:
    const Source& source_;
    int first_;
    const uint8_t* at_ = nullptr;
    uint8x16_t bytes_[kUnits], high_[kUnits];
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
alignas(16) constexpr uint32_t kByteSigns[4] = {0x80808080, 0x80808080, 0x80808080, 0x80808080};
EDGELLM_INLINE float32x4_t signed_floats(const uint8_t* bytes, int part) {
    uint32x4_t signs;
    __asm__("ldr %q0, %1" : "=w"(signs) : "m"(kByteSigns));  // as load_register, but parts share it
    const float32x4_t shifted = above_2_23(veorq_u8(vld1q_u8(bytes), vreinterpretq_u8_u32(signs)), part);
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

template <class Source, class Scales, int kUnits>
    requires Scales::kIntegers
struct ScaleReader<Source, Scales, kUnits> {
    float32x4_t scales[kUnits];
    ByteFactors<kUnits> minimums;

    EDGELLM_INLINE void read_header(const Source& source, int first) {
        for (int unit = 0; unit < kUnits; ++unit) {
            const int row = 4 * (first + unit);
            scales[unit] = Scales::template factor<NeonRegisters>(source.header, 0, row);
            if constexpr (Scales::kHalfMinimums)
                minimums.set(unit, vnegq_f32(Scales::template factor<NeonRegisters>(source.header, 1, row)));
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
    static constexpr bool kHasMinimum = Source::kHasMinimum || Source::kHalfMinimums;
    static constexpr bool kHalvesShareCodes = Reader::kHalvesShareCodes;
    static constexpr int kUnits = kParts;
    static constexpr int kZeroPoint = Source::kCentre - Reader::kCentre;  // left in codes
    // The scale of a half is a header's times an integer.
    static constexpr bool kIntegerScales = std::is_same_v<typename Source::Scales, SuperPairScales>;

    Source source;
    int first;
    ScaleReader<Source, typename Source::Scales, kParts> scales{};

    PackedRows(const Source& source_, int first_) : source(source_), first(first_) {}

    EDGELLM_INLINE void begin() {
        if constexpr (Source::kHeaderBytes > 0) {
            if (source.index % kHeaderBlocks > 0) return;
            if (source.index > 0) {
                source.header = source.block;
                source.block += Source::kHeaderBytes;
            }
            scales.read_header(source, first);
        }
    }
    EDGELLM_INLINE void next() {
        if constexpr (Source::kHeaderBytes > 0) {
            source.block += Source::kBlockBytes;
            ++source.index;
        } else {
            source.next();
        }
    }
    template <int kHalf>
    EDGELLM_INLINE CodeCursor<Source, kUnits, kHalf> codes() const {
        return {source, first};
    }
    EDGELLM_INLINE float32x4_t scale(int half, int unit) const {
        return scales.scale(source, half, unit, first + unit);
    }
    EDGELLM_INLINE float32x4_t minimum(int half, int unit) const {
        return scales.minimum(source, half, unit, first + unit);
    }
    EDGELLM_INLINE float32x4_t header_scale(int unit) const { return scales.factor[unit]; }
    // The integer that multiplies a dot of 16 columns.
    EDGELLM_INLINE float32x4_t factor(int half, int unit) const {
        return signed_floats(source.block + 16 * half, first + unit);
    }
};

}  // namespace
}  // namespace edgellm
