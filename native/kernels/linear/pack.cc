// SPDX-License-Identifier: MIT
// From rows of a file to packed panels.
#include "kernels/linear/pack.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "formats/list.h"

namespace edgellm {
namespace {

template <class F>
using BlockOf = typename F::Block;

// Packs the n_rows rows at `rows` of a format of numbers.
template <NumberFormat F>
bool pack_panel(const uint8_t* rows, size_t n_rows, size_t n_in, uint8_t* dst) {
    using Number = BlockOf<F>;
    bool finite = true;
    for (size_t row = 0; row < n_rows; ++row) {
        const uint8_t* source = rows + row * n_in * sizeof(Number);
        uint8_t* to = dst + row * sizeof(Number);
        for (size_t k = 0; k < n_in; ++k) {
            Number number;
            std::memcpy(&number, source + k * sizeof(Number), sizeof(Number));
            finite &= (number & F::kExponentMask) != F::kExponentMask;
            std::memcpy(to + k * kPanelRows * sizeof(Number), &number, sizeof(Number));
        }
    }
    return finite;
}

// 16 rows are more streams than processors fetch ahead by themselves: a third of the time of packing.
constexpr size_t kFetchBytes = 512;

template <QuantizedFormat F>
bool pack_panel(const uint8_t* rows, size_t n_rows, size_t n_in, uint8_t* dst) {
    constexpr size_t kPackedBlocks = F::kBlockSize / kBlockColumns;
    static_assert(F::Scales::kHeaderBytes == 0 || kPackedBlocks % kHeaderBlocks == 0);
    const size_t n_blocks = n_in / F::kBlockSize;
    bool finite = true;
    for (size_t i = 0; i < n_blocks; ++i) {
        uint8_t* to = dst + packed_bytes<F>(i * kPackedBlocks);
        for (size_t row = 0; row < n_rows; ++row) {
            const uint8_t* source = rows + (row * n_blocks + i) * sizeof(BlockOf<F>);
            for (size_t k = 0; k < sizeof(BlockOf<F>); k += 64) __builtin_prefetch(source + kFetchBytes + k);
            // Copied, so that all its lines are read at once.
            BlockOf<F> block;
            std::memcpy(&block, source, sizeof(block));
            finite &= F::pack(block,
                              {to, F::Scales::kHeaderBytes, F::Scales::kBytes, packed_block_bytes<F>(), row});
        }
    }
    return finite;
}

template <class F>
size_t panel_bytes(size_t n_in) {
    if constexpr (NumberFormat<F>) {
        return n_in * kPanelRows * sizeof(BlockOf<F>);
    } else {
        return packed_bytes<F>(n_in / kBlockColumns);
    }
}

size_t align64(size_t n) {
    return (n + 63) / 64 * 64;
}

// Sum of the squares of what the lower three bits l of 32 codes add to their middle 3.5, from planes of bits
// 0, 1 and 2. (l - 3.5)^2 is 1/4 + n (n + 1) for l = 3 - n and for l = 4 + n.
float lower_squares(uint32_t bit0, uint32_t bit1, uint32_t bit2) {
    const uint32_t n0 = ~(bit0 ^ bit2), n1 = ~(bit1 ^ bit2);
    return 8.0f +
           static_cast<float>(2 * std::popcount(n0) + 6 * std::popcount(n1) + 4 * std::popcount(n0 & n1));
}

// Bound of rounding in the difference of a product and its approximation, for a unit of the norms of a row's
// scales and of the activations. Each is a sum of 2 n terms, at most 383 sqrt(32) times those norms.
float rounding_error(size_t n_blocks) {
    return 8.0f * static_cast<float>(n_blocks + 2) * 0x1p-24f * 383.0f * 5.66f;
}

// The format that can be split.
using SplitFormat = formats::Q8_0;
using SplitBlock = SplitFormat::Block;

bool pack_split_panel(const PackedMatrix& m, const uint8_t* rows, size_t n_rows, uint8_t* upper,
                      uint8_t* lower, float* errors) {
    const size_t n_blocks = m.n_in / kBlockColumns;
    constexpr uint32_t kOnes = 0x01010101u;
    float squares[kPanelRows] = {}, scales[kPanelRows] = {};
    for (size_t i = 0; i < n_blocks; ++i) {
        uint8_t* block = upper + packed_bytes<SplitUpper>(i);
        for (size_t row = 0; row < n_rows; ++row) {
            SplitBlock source;
            std::memcpy(&source, rows + (row * n_blocks + i) * sizeof(source), sizeof(source));
            const PackedBlockRow high{block, block + SplitUpper::Scales::kBytes, row};
            const PackedBlockRow low{nullptr, lower + i * kLowerBlockBytes, row};
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
    if (m->type != SplitFormat::kType) return false;
    m->split = true;
    m->panel_bytes = align64(packed_bytes<SplitUpper>(m->n_in / kBlockColumns));
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
    out->type = type;
    out->n_out = static_cast<uint32_t>(n_out);
    out->n_in = static_cast<uint32_t>(n_in);
    out->n_panels = (n_out + kPanelRows - 1) / kPanelRows;
    AllFormats::visit(type, [&]<class F>() {
        out->input = NumberFormat<F> ? InputKind::kFloat : InputKind::kInt8;
        out->panel_bytes = align64(panel_bytes<F>(n_in));
    });
    out->panel_stride = out->panel_bytes;
    out->fetch_into_l2 = cpu_tuning().fetch_into_l2;
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
            AllFormats::visit(m.type, [&]<class F>() {
                finite &= pack_panel<F>(rows + row * bytes, n_rows, m.n_in, panel);
            });
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
