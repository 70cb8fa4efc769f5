// SPDX-License-Identifier: MIT
// Packed form of a matrix, which the linear kernels read: kinds of codes and of scales, in bytes. A format's
// description names one of each; a format that fits none of them brings its own.
//
// Numbers lie column by column, 16 values (rows) each.
//
// All other formats lie in packed blocks of 16 rows x 32 columns, in column order: the scales, then the
// codes. The columns are 8 groups of 4. A group's 64 bytes are [row][column of the group], so that a 32-bit
// lane is a row. Some kinds of scales have a header before every 8 packed blocks.
//
//   w = scale * (code - offset) + minimum
//
// where a table of levels may stand between the code and its value.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "base/inline.h"
#include "formats/encoding.h"
#include "formats/formats.h"

namespace edgellm {

constexpr size_t kPanelRows = 16;
constexpr size_t kBlockColumns = 32;
constexpr size_t kHeaderBlocks = 8;  // packed blocks under one header

// ---- Codes ----
//
// kBytes: of a packed block. kMax: largest code. read<S>(codes, group): a register of a group's codes, one to
// a byte, where `codes` is the address of the register's rows in group 0.

// 4 planes of 64 bytes; plane j has group j in its low nibbles and group j + 4 in its high ones.
struct Nibbles {
    static constexpr size_t kBytes = 256;
    static constexpr int kMax = 15;

    template <class S>
    EDGELLM_INLINE static typename S::Bytes read(const uint8_t* codes, int group) {
        const typename S::Bytes v = S::load(codes + 64 * (group % 4));
        return group < 4 ? S::low_nibbles(v) : S::high_nibbles(v);
    }
};

// Two planes: bits 2 (j % 4) and up of plane j / 4 belong to group j.
struct TwoBits {
    static constexpr size_t kBytes = 128;
    static constexpr int kMax = 3;

    template <class S>
    EDGELLM_INLINE static typename S::Bytes read(const uint8_t* codes, int group) {
        return S::take_bits(S::load(codes + 64 * (group / 4)), -2 * (group % 4), 0x03);
    }
};

// Two bits, then a plane of third bits: bit j belongs to group j.
struct ThreeBits {
    static constexpr size_t kBytes = 192;
    static constexpr int kMax = 7;

    template <class S>
    EDGELLM_INLINE static typename S::Bytes read(const uint8_t* codes, int group) {
        return S::or_bits(TwoBits::read<S>(codes, group), S::load(codes + 128), 2 - group, 0x04);
    }
};

// Nibbles, then a plane of fifth bits: bit j belongs to group j.
struct FiveBits {
    static constexpr size_t kBytes = 320;
    static constexpr int kMax = 31;

    template <class S>
    EDGELLM_INLINE static typename S::Bytes read(const uint8_t* codes, int group) {
        return S::or_bits(Nibbles::read<S>(codes, group), S::load(codes + 256), 4 - group, 0x10);
    }
};

// Nibbles, then two planes of high bits: bits 2 (j % 4) and up of plane j / 4 belong to group j.
struct SixBits {
    static constexpr size_t kBytes = 384;
    static constexpr int kMax = 63;

    template <class S>
    EDGELLM_INLINE static typename S::Bytes read(const uint8_t* codes, int group) {
        const typename S::Bytes high = S::load(codes + 256 + 64 * (group / 4));
        return S::or_bits(Nibbles::read<S>(codes, group), high, 4 - 2 * (group % 4), 0x30);
    }
};

// A plane for each group, signed.
struct SignedBytes {
    static constexpr size_t kBytes = 512;
    static constexpr int kMax = 255;  // with the offset of 128

    template <class S>
    EDGELLM_INLINE static typename S::Bytes read(const uint8_t* codes, int group) {
        return S::load(codes + 64 * group);
    }
};

// ---- Scales ----
//
// kBytes: of a packed block; kHeaderBytes: of a header, 0: none. Readers take the addresses of the header and
// of the packed block, and the first row of a register.
//   scale<S>           scale of 32 columns
//   minimum<S>         where kHasMinimum: what is added to each value of a row
//   pair_scale<S>      where kPairs: scale of columns 16 half and up
//   pair_words<S>      where kIntegerPairs: the integer that pair_scale multiplies scale by, twice in 16 bits
//   integer<S>         where kIntegers: the integer of columns 16 half and up that multiplies their dot
//   half_minimum<S>    where kHalfMinimums: what is added to columns 16 half and up
struct NoScales {
    static constexpr size_t kBytes = 0, kHeaderBytes = 0;
    static constexpr bool kHasMinimum = false, kPairs = false, kIntegerPairs = false;
    static constexpr bool kIntegers = false, kHalfMinimums = false;
};

// block: f16 d[16].
struct HalfScales : NoScales {
    static constexpr size_t kBytes = 32;

    template <class S>
    EDGELLM_INLINE static typename S::Floats scale(const uint8_t*, const uint8_t* block, int row) {
        return S::load_halves(block + 2 * row);
    }
};

// block: f16 d[16], f16 m[16].
struct HalfScalesMinimums : HalfScales {
    static constexpr size_t kBytes = 64;
    static constexpr bool kHasMinimum = true;

    template <class S>
    EDGELLM_INLINE static typename S::Floats minimum(const uint8_t*, const uint8_t* block, int row) {
        return S::load_halves(block + 32 + 2 * row);
    }
};

// block: u8 e[16]; the scale is 2^(e - 128).
struct ExponentScales : NoScales {
    static constexpr size_t kBytes = 16;

    template <class S>
    EDGELLM_INLINE static typename S::Floats scale(const uint8_t*, const uint8_t* block, int row) {
        return S::load_exponents(block + row);
    }
};

// header: f16 d[16], f16 dmin[16]; block: u8 scale[16], u8 minimum[16], which is subtracted.
struct SuperScalesMinimums : NoScales {
    static constexpr size_t kBytes = 32, kHeaderBytes = 64;
    static constexpr bool kHasMinimum = true;

    template <class S>
    EDGELLM_INLINE static typename S::Floats scale(const uint8_t* header, const uint8_t* block, int row) {
        return S::mul(S::load_halves(header + 2 * row), S::load_u8(block + row));
    }
    template <class S>
    EDGELLM_INLINE static typename S::Floats minimum(const uint8_t* header, const uint8_t* block, int row) {
        return S::negate(S::mul(S::load_halves(header + 32 + 2 * row), S::load_u8(block + 16 + row)));
    }
};

// header: f16 d[16]; block: i8 scale[16].
struct SuperScales : NoScales {
    static constexpr size_t kBytes = 16, kHeaderBytes = 32;

    template <class S>
    EDGELLM_INLINE static typename S::Floats scale(const uint8_t* header, const uint8_t* block, int row) {
        return S::mul(S::load_halves(header + 2 * row), S::load_i8(block + row));
    }
};

// header: f16 d[16]; block: i8 scale[2][16], one for each 16 columns.
struct SuperPairScales : NoScales {
    static constexpr size_t kBytes = 32, kHeaderBytes = 32;
    static constexpr bool kPairs = true, kIntegerPairs = true;

    template <class S>
    EDGELLM_INLINE static typename S::Floats scale(const uint8_t* header, const uint8_t*, int row) {
        return S::load_halves(header + 2 * row);
    }
    template <class S>
    EDGELLM_INLINE static typename S::Floats pair_scale(const uint8_t* header, const uint8_t* block, int half,
                                                        int row) {
        return S::mul(scale<S>(header, block, row), S::load_i8(block + 16 * half + row));
    }
    template <class S>
    EDGELLM_INLINE static typename S::Bytes pair_words(const uint8_t*, const uint8_t* block, int half,
                                                       int row) {
        return S::double_words(block + 16 * half + row);
    }
};

struct Singles {
    static constexpr size_t kBytes = 4;
    template <class S>
    EDGELLM_INLINE static typename S::Floats load(const uint8_t* from) {
        return S::load_floats(reinterpret_cast<const float*>(from));
    }
};
struct Halves {
    static constexpr size_t kBytes = 2;
    template <class S>
    EDGELLM_INLINE static typename S::Floats load(const uint8_t* from) {
        return S::load_halves(from);
    }
};

// header: d[16], dmin[16] in a type of numbers; block: i8 scale[2][16], u8 minimum[2][16], which is
// subtracted. Without minimums both have only their first field.
template <class Number, bool kMinimums>
struct IntegerScales : NoScales {
    static constexpr size_t kFields = kMinimums ? 2 : 1;
    static constexpr size_t kBytes = kFields * 32, kHeaderBytes = kFields * 16 * Number::kBytes;
    static constexpr bool kIntegerPairs = true, kIntegers = true, kHalfMinimums = kMinimums;

    // Field 0: d; 1: dmin.
    template <class S>
    EDGELLM_INLINE static typename S::Floats factor(const uint8_t* header, int field, int row) {
        return Number::template load<S>(header + static_cast<size_t>(16 * field + row) * Number::kBytes);
    }
    template <class S>
    EDGELLM_INLINE static typename S::Floats scale(const uint8_t* header, const uint8_t*, int row) {
        return factor<S>(header, 0, row);
    }
    template <class S>
    EDGELLM_INLINE static typename S::Bytes pair_words(const uint8_t*, const uint8_t* block, int half,
                                                       int row) {
        return S::double_words(block + 16 * half + row);
    }
    template <class S>
    EDGELLM_INLINE static typename S::Ints integer(const uint8_t*, const uint8_t* block, int half, int row) {
        return S::widen_i8(block + 16 * half + row);
    }
    template <class S>
    EDGELLM_INLINE static typename S::Floats half_minimum(const uint8_t* header, const uint8_t* block,
                                                          int half, int row) {
        return S::mul(S::negate(factor<S>(header, 1, row)), S::load_u8(block + 32 + 16 * half + row));
    }
};
using ExpandedScales = IntegerScales<Singles, true>;

// ---- Descriptions ----

// A format F is described by
//   kName, kType       its name and its number in the file
//   kBlockSize, Block  values of a block, and its bytes as they lie in the file, at any address
//   value(block, i)    value i of a block; or decode(block, out): all values; or expand(block, expanded): the
//                      common form of blocks of 256 (expanded.h)
//   Codes, Scales      kinds above; kOffset, kLevels: of the formula above
//   pack(block, to)    writes one row of the packed blocks that a block fills; false if a scale is NaN or
//                      infinite
//   kEncoding          how the encoders fill its blocks (encoding.h), if they do
// Of numbers (kBlockSize 1): value, and kExponentMask: the bits that are all ones in infinities and NaNs.
template <class F>
concept NumberFormat = F::kBlockSize == 1 && requires(const typename F::Block& block) {
    { F::value(block, 0) } -> std::same_as<float>;
    { F::kExponentMask } -> std::convertible_to<uint32_t>;
};

struct PackedRow;

template <class F>
concept QuantizedFormat =
    F::kBlockSize % kBlockColumns == 0 && requires(const typename F::Block& block, const PackedRow& to) {
        { F::Codes::kBytes } -> std::convertible_to<size_t>;
        { F::Scales::kBytes } -> std::convertible_to<size_t>;
        { F::kOffset } -> std::convertible_to<int>;
        { F::kLevels } -> std::convertible_to<const int8_t*>;
        { F::pack(block, to) } -> std::same_as<bool>;
    };

template <class F>
concept WeightFormat = (NumberFormat<F> || QuantizedFormat<F>) && requires {
    { F::kName } -> std::convertible_to<const char*>;
    { F::kType } -> std::convertible_to<GGMLType>;
};

// Defaults of descriptions.
struct QuantizedDefaults {
    static constexpr int kOffset = 0;                   // subtracted from codes
    static constexpr std::nullptr_t kLevels = nullptr;  // value of each 4-bit code; null: the code itself
};

// Told by type: with sanitizers GCC takes no comparison of a table's address for constant.
template <class F>
inline constexpr bool kHasLevels = !std::is_null_pointer_v<std::remove_cv_t<decltype(F::kLevels)>>;

// Largest code as kernels see it: unsigned, the offset added to levels.
template <class F>
constexpr int largest_code() {
    if constexpr (kHasLevels<F>) {
        int largest = 0;
        for (int i = 0; i < 16; ++i) {
            if (F::kLevels[i] + F::kOffset > largest) largest = F::kLevels[i] + F::kOffset;
        }
        return largest;
    } else {
        return F::Codes::kMax;
    }
}

// How a format's panels are multiplied.
enum class KernelKind : uint8_t {
    kFloats,
    kBytes,  // codes as unsigned bytes of at most 6 bits
    kWide,   // codes of 8 bits
    kWords,  // codes with an integer scale for 16 columns
};

template <class F>
constexpr KernelKind kernel_kind() {
    if constexpr (NumberFormat<F>) {
        return KernelKind::kFloats;
    } else if constexpr (F::Scales::kIntegers) {
        return KernelKind::kWords;
    } else {
        return largest_code<F>() <= SixBits::kMax ? KernelKind::kBytes : KernelKind::kWide;
    }
}

template <class F>
constexpr size_t packed_block_bytes() {
    return F::Scales::kBytes + F::Codes::kBytes;
}

// Bytes of the first n_blocks packed blocks of a panel with their headers; n_blocks a multiple of
// kHeaderBlocks where there are headers.
template <class F>
constexpr size_t packed_bytes(size_t n_blocks) {
    return n_blocks * packed_block_bytes<F>() + n_blocks / kHeaderBlocks * F::Scales::kHeaderBytes;
}

// ---- Writing ----

// One row of a packed block. `field` counts arrays of 16 rows.
struct PackedBlockRow {
    uint8_t* scales;
    uint8_t* codes;
    size_t row;

    void half(size_t field, const uint8_t* value) const {
        std::memcpy(scales + field * 32 + 2 * row, value, 2);
    }
    void byte(size_t field, uint8_t value) const { scales[field * 16 + row] = value; }
    // Four codes of a plane's group, one to a byte.
    void word(size_t plane, uint32_t value) const { std::memcpy(codes + plane * 64 + 4 * row, &value, 4); }
};

// One row of the packed blocks that hold a block of the file.
struct PackedRow {
    uint8_t* header;
    size_t header_bytes, scale_bytes, block_bytes;
    size_t row;

    void half(size_t field, const uint8_t* value) const {
        std::memcpy(header + field * 32 + 2 * row, value, 2);
    }
    void single(size_t field, float value) const { std::memcpy(header + field * 64 + 4 * row, &value, 4); }
    PackedBlockRow block(size_t i) const {
        uint8_t* start = header + header_bytes + i * block_bytes;
        return {start, start + scale_bytes, row};
    }
};

}  // namespace edgellm
