// SPDX-License-Identifier: MIT
// From rows of a file to packed panels.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "formats/block32.h"
#include "formats/expanded.h"
#include "formats/iq4_xs.h"
#include "formats/k_quants.h"
#include "kernels/linear/layout.h"

namespace edgellm {
namespace {

constexpr size_t kGroupBytes = 64;

// Where row `row` of a packed block puts what it holds.
struct RowOfBlock {
    uint8_t* scales;
    uint8_t* codes;
    size_t row;

    void half(size_t field, const uint8_t* value) const {
        std::memcpy(scales + field * 32 + 2 * row, value, 2);
    }
    void byte(size_t field, uint8_t value) const { scales[field * 16 + row] = value; }
    // Four codes of group j (64-byte plane j), one per byte.
    void word(size_t plane, uint32_t value) const {
        std::memcpy(codes + plane * kGroupBytes + 4 * row, &value, 4);
    }
};

bool finite_half(const uint8_t* half) {
    return (load_u16(half) & 0x7c00u) != 0x7c00u;
}

// 4-bit codes as Q4_0 lays them out: exactly the packed form of one row.
void put_nibbles(const RowOfBlock& to, const uint8_t* qs) {
    for (size_t j = 0; j < 4; ++j) to.word(j, load_u32(qs + 4 * j));
}

// Bits 0..3 of `bits` to bit 0 of bytes 0..3.
uint32_t spread_bits(uint32_t bits) {
    return (bits * 0x00204081u) & 0x01010101u;
}

// Fifth bits in column order to the plane whose byte c holds bit j for column 4 j + c.
void put_fifth_bits(const RowOfBlock& to, uint32_t columns) {
    uint32_t plane = 0;
    for (unsigned j = 0; j < 8; ++j) plane |= spread_bits(columns >> (4 * j) & 15) << j;
    to.word(4, plane);
}

bool pack_block(const BlockQ4_0& b, const RowOfBlock& to) {
    to.half(0, b.d);
    put_nibbles(to, b.qs);
    return finite_half(b.d);
}

bool pack_block(const BlockIQ4_NL& b, const RowOfBlock& to) {
    to.half(0, b.d);
    put_nibbles(to, b.qs);
    return finite_half(b.d);
}

bool pack_block(const BlockQ4_1& b, const RowOfBlock& to) {
    to.half(0, b.d);
    to.half(1, b.m);
    put_nibbles(to, b.qs);
    return finite_half(b.d) && finite_half(b.m);
}

bool pack_block(const BlockQ5_0& b, const RowOfBlock& to) {
    to.half(0, b.d);
    put_nibbles(to, b.qs);
    put_fifth_bits(to, load_u32(b.qh));
    return finite_half(b.d);
}

bool pack_block(const BlockQ5_1& b, const RowOfBlock& to) {
    to.half(0, b.d);
    to.half(1, b.m);
    put_nibbles(to, b.qs);
    put_fifth_bits(to, load_u32(b.qh));
    return finite_half(b.d) && finite_half(b.m);
}

bool pack_block(const BlockQ8_0& b, const RowOfBlock& to) {
    to.half(0, b.d);
    for (size_t j = 0; j < 8; ++j) {
        uint32_t codes;
        std::memcpy(&codes, b.qs + 4 * j, 4);
        to.word(j, codes);
    }
    return finite_half(b.d);
}

// An exponent of 255 is NaN in OCP MX.
bool pack_block(const BlockMXFP4& b, const RowOfBlock& to) {
    to.byte(0, b.e);
    put_nibbles(to, b.qs);
    return b.e != 255;
}

// Where a 256-value block of row `row` goes: a header, then 8 blocks.
struct RowOfSuper {
    uint8_t* header;
    size_t block_bytes, scale_bytes, header_bytes;
    size_t row;

    void half(size_t field, const uint8_t* value) const {
        std::memcpy(header + field * 32 + 2 * row, value, 2);
    }
    void single(size_t field, float value) const { std::memcpy(header + field * 64 + 4 * row, &value, 4); }
    RowOfBlock block(size_t i) const {
        uint8_t* start = header + header_bytes + i * block_bytes;
        return {start, start + scale_bytes, row};
    }
};

// Codes of K-quants: 64 columns as 32 bytes, low nibbles the first 32 columns. `high` picks the second.
void put_k_nibbles(const RowOfBlock& to, const uint8_t* qs, bool high) {
    for (size_t j = 0; j < 4; ++j) {
        const uint32_t a = load_u32(qs + 4 * j) >> (high ? 4 : 0) & 0x0f0f0f0fu;
        const uint32_t b = load_u32(qs + 16 + 4 * j) >> (high ? 4 : 0) & 0x0f0f0f0fu;
        to.word(j, a | b << 4);
    }
}

template <class Block>
void put_k_scales(const Block& b, const RowOfSuper& to) {
    uint8_t scale[8], minimum[8];
    unpack_k_scales(b.scales, scale, minimum);
    to.half(0, b.d);
    to.half(1, b.dmin);
    for (size_t i = 0; i < 8; ++i) {
        to.block(i).byte(0, scale[i]);
        to.block(i).byte(1, minimum[i]);
    }
}

bool pack_super(const BlockQ4_K& b, const RowOfSuper& to) {
    put_k_scales(b, to);
    for (size_t i = 0; i < 8; ++i) put_k_nibbles(to.block(i), b.qs + i / 2 * 32, i % 2 != 0);
    return finite_half(b.d) && finite_half(b.dmin);
}

bool pack_super(const BlockQ5_K& b, const RowOfSuper& to) {
    put_k_scales(b, to);
    for (size_t i = 0; i < 8; ++i) {
        const RowOfBlock block = to.block(i);
        put_k_nibbles(block, b.qs + i / 2 * 32, i % 2 != 0);
        uint32_t plane = 0;
        for (unsigned j = 0; j < 8; ++j) plane |= (load_u32(b.qh + 4 * j) >> i & 0x01010101u) << j;
        block.word(4, plane);
    }
    return finite_half(b.d) && finite_half(b.dmin);
}

bool pack_super(const BlockQ6_K& b, const RowOfSuper& to) {
    to.half(0, b.d);
    for (size_t i = 0; i < 8; ++i) {
        const RowOfBlock block = to.block(i);
        block.byte(0, static_cast<uint8_t>(b.scales[2 * i]));
        block.byte(1, static_cast<uint8_t>(b.scales[2 * i + 1]));
        const uint8_t* low = b.ql + i / 4 * 64 + i % 2 * 32;
        put_k_nibbles(block, low, i % 4 >= 2);
        const uint8_t* high = b.qh + i / 4 * 32;
        for (size_t half = 0; half < 2; ++half) {
            uint32_t plane = 0;
            for (unsigned j = 0; j < 4; ++j) {
                plane |= (load_u32(high + 16 * half + 4 * j) >> (2 * (i % 4)) & 0x03030303u) << (2 * j);
            }
            block.word(4 + half, plane);
        }
    }
    return finite_half(b.d);
}

bool pack_super(const BlockIQ4_XS& b, const RowOfSuper& to) {
    to.half(0, b.d);
    for (size_t i = 0; i < 8; ++i) {
        to.block(i).byte(0, static_cast<uint8_t>(iq4_xs_scale(b, static_cast<int>(i))));
        put_nibbles(to.block(i), b.qs + 16 * i);
    }
    return finite_half(b.d);
}

bool pack_super(const ExpandedBlock& b, const RowOfSuper& to) {
    to.single(0, b.d);
    to.single(1, b.dmin);
    for (size_t i = 0; i < 8; ++i) {
        const RowOfBlock block = to.block(i);
        for (size_t half = 0; half < 2; ++half) {
            block.byte(half, static_cast<uint8_t>(b.scale[2 * i + half]));
            block.byte(2 + half, b.minimum[2 * i + half]);
        }
        for (size_t j = 0; j < 4; ++j) {
            block.word(j, load_u32(b.code + 32 * i + 4 * j) | load_u32(b.code + 32 * i + 16 + 4 * j) << 4);
        }
    }
    // Infinity and NaN alone survive a multiplication by zero as NaN.
    return b.d * 0.0f == 0.0f && b.dmin * 0.0f == 0.0f;
}

// Packs the n_rows rows at `rows`, n_blocks source blocks each.
template <class Block>
bool pack_panel32(const Layout& layout, const uint8_t* rows, size_t n_rows, size_t n_blocks, uint8_t* dst) {
    bool finite = true;
    for (size_t i = 0; i < n_blocks; ++i) {
        uint8_t* block = dst + i * packed_block_bytes(layout);
        for (size_t row = 0; row < n_rows; ++row) {
            Block source;
            std::memcpy(&source, rows + (row * n_blocks + i) * sizeof(Block), sizeof(Block));
            finite &= pack_block(source, {block, block + scale_bytes(layout.scales), row});
        }
    }
    return finite;
}

template <class Source>
bool pack_panel256(const Layout& layout, const uint8_t* rows, size_t n_rows, size_t n_blocks,
                   size_t block_bytes, uint8_t* dst, Source source) {
    bool finite = true;
    for (size_t i = 0; i < n_blocks; ++i) {
        const RowOfSuper to{dst + i * packed_bytes(layout, 8), packed_block_bytes(layout),
                            scale_bytes(layout.scales), header_bytes(layout.scales), 0};
        for (size_t row = 0; row < n_rows; ++row) {
            RowOfSuper row_to = to;
            row_to.row = row;
            finite &= source(rows + (row * n_blocks + i) * block_bytes, row_to);
        }
    }
    return finite;
}

template <class Block>
bool pack_k_panel(const Layout& layout, const uint8_t* rows, size_t n_rows, size_t n_blocks, uint8_t* dst) {
    return pack_panel256(layout, rows, n_rows, n_blocks, sizeof(Block), dst,
                         [](const uint8_t* bytes, const RowOfSuper& to) {
                             Block block;
                             std::memcpy(&block, bytes, sizeof(block));
                             return pack_super(block, to);
                         });
}

bool pack_expanded_panel(const PackedMatrix& m, const uint8_t* rows, size_t n_rows, uint8_t* dst) {
    const ExpandedFormat& format = *find_expanded_format(m.type);
    return pack_panel256(layout_of(m.type), rows, n_rows, m.n_in / 256, format.block_bytes, dst,
                         [&format](const uint8_t* bytes, const RowOfSuper& to) {
                             ExpandedBlock block;
                             format.expand(bytes, &block);
                             return pack_super(block, to);
                         });
}

// exponent_mask: the bits that are all ones in infinities and NaNs.
template <class Value>
bool pack_float_panel(Value exponent_mask, const uint8_t* rows, size_t n_rows, size_t n_in, uint8_t* dst) {
    bool finite = true;
    for (size_t row = 0; row < n_rows; ++row) {
        const uint8_t* source = rows + row * n_in * sizeof(Value);
        uint8_t* to = dst + row * sizeof(Value);
        for (size_t k = 0; k < n_in; ++k) {
            Value value;
            std::memcpy(&value, source + k * sizeof(Value), sizeof(Value));
            finite &= (value & exponent_mask) != exponent_mask;
            std::memcpy(to + k * kPanelRows * sizeof(Value), &value, sizeof(Value));
        }
    }
    return finite;
}

bool pack_panel(const PackedMatrix& m, const uint8_t* rows, size_t n_rows, uint8_t* dst) {
    const Layout layout = layout_of(m.type);
    const size_t n32 = m.n_in / 32, n256 = m.n_in / 256;
    switch (m.type) {
        case GGMLType::F32:
            return pack_float_panel<uint32_t>(0x7f800000u, rows, n_rows, m.n_in, dst);
        case GGMLType::F16:
            return pack_float_panel<uint16_t>(0x7c00u, rows, n_rows, m.n_in, dst);
        case GGMLType::BF16:
            return pack_float_panel<uint16_t>(0x7f80u, rows, n_rows, m.n_in, dst);
        case GGMLType::Q4_0:
            return pack_panel32<BlockQ4_0>(layout, rows, n_rows, n32, dst);
        case GGMLType::Q4_1:
            return pack_panel32<BlockQ4_1>(layout, rows, n_rows, n32, dst);
        case GGMLType::Q5_0:
            return pack_panel32<BlockQ5_0>(layout, rows, n_rows, n32, dst);
        case GGMLType::Q5_1:
            return pack_panel32<BlockQ5_1>(layout, rows, n_rows, n32, dst);
        case GGMLType::Q8_0:
            return pack_panel32<BlockQ8_0>(layout, rows, n_rows, n32, dst);
        case GGMLType::IQ4_NL:
            return pack_panel32<BlockIQ4_NL>(layout, rows, n_rows, n32, dst);
        case GGMLType::MXFP4:
            return pack_panel32<BlockMXFP4>(layout, rows, n_rows, n32, dst);
        case GGMLType::Q4_K:
            return pack_k_panel<BlockQ4_K>(layout, rows, n_rows, n256, dst);
        case GGMLType::Q5_K:
            return pack_k_panel<BlockQ5_K>(layout, rows, n_rows, n256, dst);
        case GGMLType::Q6_K:
            return pack_k_panel<BlockQ6_K>(layout, rows, n_rows, n256, dst);
        case GGMLType::IQ4_XS:
            return pack_k_panel<BlockIQ4_XS>(layout, rows, n_rows, n256, dst);
        default:
            return pack_expanded_panel(m, rows, n_rows, dst);
    }
}

size_t align64(size_t n) {
    return (n + 63) / 64 * 64;
}

// What the lower bits of 32 codes add to their middle, squared and summed, given bit 0, 1 and 2 of all of
// them: (l - 3.5)^2 is 1/4 + n (n + 1) for l = 3 - n and l = 4 + n.
float lower_squares(uint32_t bit0, uint32_t bit1, uint32_t bit2) {
    const uint32_t n0 = ~(bit0 ^ bit2), n1 = ~(bit1 ^ bit2);
    return 8.0f +
           static_cast<float>(2 * std::popcount(n0) + 6 * std::popcount(n1) + 4 * std::popcount(n0 & n1));
}

// How much of the norms of a row's scales and of what is multiplied rounding can add to the difference of a
// product and its approximation. Each is a sum of 2 n terms that are at most 383 sqrt(32) of them.
float rounding_error(size_t n_blocks) {
    return 8.0f * static_cast<float>(n_blocks + 2) * 0x1p-24f * 383.0f * 5.66f;
}

bool pack_split_panel(const PackedMatrix& m, const uint8_t* rows, size_t n_rows, uint8_t* upper,
                      uint8_t* lower, float* errors) {
    const Layout layout = layout_of(GGMLType::Q5_0);
    const size_t n_blocks = m.n_in / kBlockColumns;
    constexpr uint32_t kOnes = 0x01010101u;
    float squares[kPanelRows] = {}, scales[kPanelRows] = {};
    for (size_t i = 0; i < n_blocks; ++i) {
        uint8_t* block = upper + i * packed_block_bytes(layout);
        for (size_t row = 0; row < n_rows; ++row) {
            BlockQ8_0 source;
            std::memcpy(&source, rows + (row * n_blocks + i) * sizeof(source), sizeof(source));
            const RowOfBlock high{block, block + scale_bytes(layout.scales), row};
            const RowOfBlock low{nullptr, lower + i * kLowerBlockBytes, row};
            uint32_t codes[8], fifth = 0, bit0 = 0, bit1 = 0, bit2 = 0;
            std::memcpy(codes, source.qs, sizeof(codes));
            for (unsigned j = 0; j < 8; ++j) {
                codes[j] ^= 0x80808080u;
                fifth |= (codes[j] >> 7 & kOnes) << j;
                bit0 |= (codes[j] & kOnes) << j;
                bit1 |= (codes[j] >> 1 & kOnes) << j;
                bit2 |= (codes[j] >> 2 & kOnes) << j;
            }
            for (size_t j = 0; j < 4; ++j) {
                high.word(j, (codes[j] >> 3 & 15 * kOnes) | (codes[j + 4] >> 3 & 15 * kOnes) << 4);
            }
            high.word(4, fifth);
            const auto low_pair = [&codes](size_t j) {
                return (codes[j] & 7 * kOnes) | (codes[j + 1] & 7 * kOnes) << 3;
            };
            low.word(0, low_pair(0) | (codes[6] & 3 * kOnes) << 6);
            low.word(1, low_pair(2) | (codes[7] & 3 * kOnes) << 6);
            low.word(2, low_pair(4) | (codes[6] & 4 * kOnes) << 4 | (codes[7] & 4 * kOnes) << 5);
            high.half(0, source.d);
            const float d = load_half(source.d);
            squares[row] += d * d * lower_squares(bit0, bit1, bit2);
            scales[row] += d * d;
        }
    }
    bool finite = true;
    for (size_t row = 0; row < n_rows; ++row) {
        errors[row] = std::sqrt(squares[row]) * 1.0001f + std::sqrt(scales[row]) * rounding_error(n_blocks);
        finite &= std::isfinite(errors[row]);
    }
    return finite;
}

}  // namespace

bool split_matrix(PackedMatrix* m) {
    if (m->type != GGMLType::Q8_0) return false;
    m->split = true;
    m->panel_bytes = align64(packed_bytes(layout_of(GGMLType::Q5_0), m->n_in / kBlockColumns));
    m->panel_stride = m->panel_bytes;
    return true;
}

size_t matrix_bytes(const PackedMatrix& m) {
    if (m.split) return errors_offset(m) + m.n_panels * kPanelRows * sizeof(float);
    return m.n_panels * m.panel_stride;
}

const float* row_errors(const PackedMatrix& m) {
    return reinterpret_cast<const float*>(m.data + errors_offset(m));
}

float row_norm(const QuantRows& rows, size_t token) {
    double sum = 0;
    for (size_t b = 0; b < rows.n_blocks; ++b) {
        const size_t i = rows.index(token, b);
        int squares = 0;
        for (size_t k = 0; k < kBlockColumns; ++k) squares += rows.q[32 * i + k] * rows.q[32 * i + k];
        const double factor = static_cast<double>(rows.terms[i].factor);
        sum += factor * factor * squares;
    }
    return static_cast<float>(std::sqrt(sum) * 1.000001) * rows.unit[token];
}

size_t quant_row_bytes(size_t n_in) {
    return align64(n_in + n_in / kBlockColumns * sizeof(QuantTerms) + sizeof(float));
}

QuantRows quant_rows_in(uint8_t* memory, size_t n_in, size_t capacity, size_t n_rows) {
    const size_t n_blocks = n_in / kBlockColumns;
    uint8_t* terms = memory + n_in * capacity;
    uint8_t* unit = terms + n_blocks * sizeof(QuantTerms) * capacity;
    return {reinterpret_cast<int8_t*>(memory), reinterpret_cast<QuantTerms*>(terms),
            reinterpret_cast<float*>(unit), n_blocks, n_rows};
}

bool describe_matrix(GGMLType type, size_t n_out, size_t n_in, PackedMatrix* out) {
    const FormatInfo* format = find_format(static_cast<uint32_t>(type));
    if (format == nullptr || n_in % format->block_size != 0) return false;
    const Layout layout = layout_of(type);
    const bool is_float = layout.codes == Codes::kFloat;
    out->type = type;
    out->input = is_float ? InputKind::kFloat : InputKind::kInt8;
    out->n_out = static_cast<uint32_t>(n_out);
    out->n_in = static_cast<uint32_t>(n_in);
    out->n_panels = (n_out + kPanelRows - 1) / kPanelRows;
    out->panel_bytes = align64(is_float ? n_in * kPanelRows * format->block_bytes
                                        : packed_bytes(layout, n_in / kBlockColumns));
    out->panel_stride = out->panel_bytes;
    out->fetch_far = cpu_tuning().fetch_into_l2;
    out->split = false;
    return true;
}

bool pack_panels(const PackedMatrix& m, const uint8_t* rows, size_t first, size_t last, uint8_t* dst) {
    const size_t bytes = row_bytes(*find_format(static_cast<uint32_t>(m.type)), m.n_in);
    bool finite = true;
    for (size_t p = first; p < last; ++p) {
        const size_t row = p * kPanelRows;
        const size_t n_rows = std::min(kPanelRows, m.n_out - row);
        uint8_t* panel = dst + p * m.panel_stride;
        if (n_rows < kPanelRows) std::memset(panel, 0, m.panel_bytes);
        if (!m.split) {
            finite &= pack_panel(m, rows + row * bytes, n_rows, panel);
            continue;
        }
        uint8_t* lower = dst + lower_offset(m) + p * lower_panel_bytes(m);
        auto* errors = reinterpret_cast<float*>(dst + errors_offset(m)) + p * kPanelRows;
        if (n_rows < kPanelRows) {
            std::memset(lower, 0, lower_panel_bytes(m));
            std::fill_n(errors, kPanelRows, 0.0f);
        }
        finite &= pack_split_panel(m, rows + row * bytes, n_rows, panel, lower, errors);
    }
    return finite;
}

}  // namespace edgellm
