// SPDX-License-Identifier: MIT
// The packed form of each format, in bytes.
//
// Float formats: column by column, 16 values (rows) each.
//
// Quantized formats: blocks of 16 rows x 32 columns in column order. The columns of a block are 8 groups
// of 4. A group's 64 bytes are [row][column of the group], so that a 32-bit lane is a row. A block is its
// scales, then its codes:
//   nibbles    4 x 64 bytes: low nibble group j, high nibble group j + 4, for j in 0..3
//   five bits  the same, then 64 bytes of fifth bits: bit j for group j
//   six bits   the same, then 2 x 64 bytes of high bits: bits 2 (j % 4) and up of half j / 4 for group j
//   bytes      8 x 64 bytes, signed
// Formats of 256-value blocks put a header with 16-row scales before every 8 blocks.
//
// A split matrix has its codes' upper five bits and lower three in places of their own, so that one can be
// read without the other. The codes are Q8_0's, 128 added. One after another:
//   upper   panels as those of Q5_0, with the source's scales
//   lower   for each panel and block: 3 x 64 bytes, each three bits of groups j, j + 1 for j = 0, 2, 4, and
//           then two bits of what is left: bits 0 and 1 of group 6, of group 7, and bit 2 of both
//   errors  16 floats for each panel
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/formats.h"
#include "formats/levels.h"
#include "kernels/linear/linear.h"

namespace edgellm {

enum class Codes : uint8_t { kFloat, kNibbles, kFiveBits, kSixBits, kBytes };

// w = d * (code - offset), or d * code + m. [16] counts rows.
enum class Scales : uint8_t {
    kNone,
    kHalf,        // block: f16 d[16]
    kHalfMin,     // block: f16 d[16], f16 m[16]
    kE8M0,        // block: u8 exponent[16]; d = 2^(exponent - 128)
    kSuperMin,    // header: f16 d[16], f16 dmin[16]; block: u8 scale[16], u8 minimum[16]
    kSuper,       // header: f16 d[16]; block: i8 scale[16]
    kSuperPairs,  // header: f16 d[16]; block: i8 scale[2][16], one for each 16 columns
    kExpanded,    // header: f32 d[16], f32 dmin[16]; block: i8 scale[2][16], u8 minimum[2][16]
};

struct Layout {
    Codes codes = Codes::kFloat;
    Scales scales = Scales::kNone;
    int offset = 0;       // of unsigned codes (after the table)
    bool levels = false;  // nibbles stand for levels_of(type); the unsigned code is level + offset
};

constexpr Layout layout_of(GGMLType type) {
    switch (type) {
        case GGMLType::F32:
        case GGMLType::F16:
        case GGMLType::BF16:
            return {};
        case GGMLType::Q4_0:
            return {Codes::kNibbles, Scales::kHalf, 8};
        case GGMLType::Q4_1:
            return {Codes::kNibbles, Scales::kHalfMin};
        case GGMLType::Q5_0:
            return {Codes::kFiveBits, Scales::kHalf, 16};
        case GGMLType::Q5_1:
            return {Codes::kFiveBits, Scales::kHalfMin};
        case GGMLType::Q8_0:
            return {Codes::kBytes, Scales::kHalf, 128};
        case GGMLType::Q4_K:
            return {Codes::kNibbles, Scales::kSuperMin};
        case GGMLType::Q5_K:
            return {Codes::kFiveBits, Scales::kSuperMin};
        case GGMLType::Q6_K:
            return {Codes::kSixBits, Scales::kSuperPairs, 32};
        case GGMLType::IQ4_NL:
            return {Codes::kNibbles, Scales::kHalf, 128, true};
        case GGMLType::IQ4_XS:
            return {Codes::kNibbles, Scales::kSuper, 128, true};
        case GGMLType::MXFP4:
            return {Codes::kNibbles, Scales::kE8M0, 12, true};
        default:
            return {Codes::kNibbles, Scales::kExpanded, 0, true};
    }
}

constexpr size_t code_bytes(Codes codes) {
    switch (codes) {
        case Codes::kFloat:
            return 0;
        case Codes::kNibbles:
            return 256;
        case Codes::kFiveBits:
            return 320;
        case Codes::kSixBits:
            return 384;
        case Codes::kBytes:
            return 512;
    }
    return 0;
}

constexpr size_t scale_bytes(Scales scales) {
    switch (scales) {
        case Scales::kNone:
            return 0;
        case Scales::kE8M0:
        case Scales::kSuper:
            return 16;
        case Scales::kHalf:
        case Scales::kSuperMin:
        case Scales::kSuperPairs:
            return 32;
        case Scales::kHalfMin:
        case Scales::kExpanded:
            return 64;
    }
    return 0;
}

// Bytes of the header before every 8 blocks; 0: no header.
constexpr size_t header_bytes(Scales scales) {
    switch (scales) {
        case Scales::kSuper:
        case Scales::kSuperPairs:
            return 32;
        case Scales::kSuperMin:
            return 64;
        case Scales::kExpanded:
            return 128;
        default:
            return 0;
    }
}

constexpr size_t packed_block_bytes(const Layout& layout) {
    return scale_bytes(layout.scales) + code_bytes(layout.codes);
}

// Bytes of the first n_blocks blocks of a panel with their headers; n_blocks a multiple of 8 where there are
// headers.
constexpr size_t packed_bytes(const Layout& layout, size_t n_blocks) {
    return n_blocks * packed_block_bytes(layout) + n_blocks / 8 * header_bytes(layout.scales);
}

constexpr size_t kLowerBlockBytes = 3 * 64;

// Lower bits of panel 0 of a split matrix that begins at `data`.
inline size_t lower_offset(const PackedMatrix& m) {
    return m.n_panels * m.panel_stride;
}
inline size_t lower_panel_bytes(const PackedMatrix& m) {
    return m.n_in / kBlockColumns * kLowerBlockBytes;
}

inline size_t errors_offset(const PackedMatrix& m) {
    return lower_offset(m) + m.n_panels * lower_panel_bytes(m);
}

// The two functions of LinearKernels that do not depend on the instruction set.
bool describe_matrix(GGMLType type, size_t n_out, size_t n_in, PackedMatrix* out);
bool pack_panels(const PackedMatrix& m, const uint8_t* rows, size_t first, size_t last, uint8_t* dst);

}  // namespace edgellm
