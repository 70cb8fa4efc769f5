// SPDX-License-Identifier: MIT
// y = x W^T for weights in any GGUF format, over packed panels of 16 rows.
//
// A weight matrix (n_out, n_in) is packed once at load into ceil(n_out / 16) panels. A panel holds 16 rows,
// interleaved so that a vector lane is a row: quantized formats in blocks of 16 rows x 32 columns (8 groups
// of 4 columns; see formats/packing.h), float formats column by column. Rows past n_out are zero.
//
// Results are batch-invariant: y[t][r] is computed by one fixed sequence of operations (integer dots of a
// 32-column block are exact; blocks are added in ascending order by float fma), whatever n_tokens is.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/arch.h"
#include "formats/packing.h"

namespace edgellm {

// What a packed matrix multiplies: float rows, or rows quantized to int8.
enum class InputKind : uint8_t { kFloat, kInt8 };

// What a block of 32 activations of a token has beside its codes.
struct QuantTerms {
    float factor;  // an integer of at most kFactorBits significant bits, at most kLargestFactor
    // What multiplies dots by the factor. AVX2: the factor twice, as 16-bit words. Sets that sum in 32 bits:
    // the exponent of its power of two; tables of scales have the rest (expanded.h).
    int32_t multiplier;
    // What dots of all 32 codes, of the first 16 and of the last begin at, so that weights' codes count from
    // their centre. Of sets that sum in 32 bits: the codes' sums, times -1, -32 and -32. Of AVX2: two words,
    // the sums of columns 0 and 1 and of 2 and 3 of every four, times -16, -32 and -32.
    int32_t start, low_start, high_start;
    float sum, high;  // factor * (sum of the 32 codes, of the last 16); they apply weight minimums
};
constexpr int kFactorBits = 4;
constexpr int kLargestFactor = 15 << 9;  // times a block's dot with codes of 8 bits it fits 32 bits

// Activations (n_rows, n_in) in the form that int8 panels read. n_in is a multiple of 32.
// x[t][k] ~ unit[t] * factor[t][k / 32] * q[t][k], |q| <= 127.
//
// Rows are in groups of 96 (the last may have fewer), and a group is [block][row][32]: what a tile of some
// rows reads of a block is contiguous, and its distances do not depend on n_in. One row is a plain row.
struct QuantRows {
    static constexpr size_t kGroup = 96;  // a multiple of every tile
    int8_t* q;                            // 32 codes for each index
    QuantTerms* terms;
    float* unit;  // [row]
    size_t n_blocks, n_rows;

    size_t group_rows(size_t row) const {
        const size_t left = n_rows - row / kGroup * kGroup;
        return left < kGroup ? left : kGroup;
    }
    size_t index(size_t row, size_t block) const {
        return row / kGroup * kGroup * n_blocks + block * group_rows(row) + row % kGroup;
    }
};
// Bytes for each row of the memory that QuantRows point to.
size_t quant_row_bytes(size_t n_in);
// `memory` has room for `capacity` rows, of which n_rows are used.
QuantRows quant_rows_in(uint8_t* memory, size_t n_in, size_t capacity, size_t n_rows);

struct PackedMatrix {
    GGMLType type;  // format of the source
    InputKind input;
    uint32_t n_out, n_in;
    size_t n_panels;      // ceil(n_out / 16)
    size_t panel_bytes;   // bytes of one packed panel, a multiple of 64
    size_t panel_stride;  // distance between panels: panel_bytes, or more where two matrices are interleaved
    bool fetch_far;       // on this processor, lines to come of wide codes are fetched into L2, not L1
    bool split;           // codes are in two parts, of which `approximate` reads the first (pack.h)
    const uint8_t* data;  // 64-byte aligned
};

// Makes a described matrix one that is packed in two parts; false, and nothing changed, if its format is none
// that can be (Q8_0 can).
bool split_matrix(PackedMatrix* m);
// Bytes of all panels.
size_t matrix_bytes(const PackedMatrix& m);
// Of a split matrix: how far result r can be from its approximation, for each unit of the norm of what is
// multiplied (Cauchy and Schwarz: the norm of what the lower bits add, and what rounding can).
const float* row_errors(const PackedMatrix& m);
// The norm of a quantized row, rounded up.
float row_norm(const QuantRows& rows, size_t token);

struct LinearKernels {
    // Fills every field but `data` (panel_stride = panel_bytes). False if the format cannot be a weight or
    // n_in does not fit the format's block.
    bool (*describe)(GGMLType type, size_t n_out, size_t n_in, PackedMatrix* out);

    // Packs panels [first, last) into dst (the address of panel 0; uses m.panel_stride). `rows` is row 0 of
    // the source, rows contiguous. Returns false if a scale or float weight is NaN or infinite.
    bool (*pack)(const PackedMatrix& m, const uint8_t* rows, size_t first, size_t last, uint8_t* dst);

    // Quantizes one token's row, all of it: writes row `token` of `out`. A row that holds infinity or NaN has
    // NaN as unit, and so has its result.
    void (*quantize_row)(const float* x, const QuantRows& out, size_t token);

    // y[t * ldy + (p - first) * 16 + r] for panels p in [first, last), tokens t in [0, n_tokens).
    // Int8 matrices read xq rows token0 + t; float matrices read x + (token0 + t) * ldx. No alignment needed
    // of y; rows past n_out are not written.
    void (*matmul)(const PackedMatrix& m, size_t first, size_t last, const QuantRows* xq, const float* x,
                   size_t ldx, size_t token0, size_t n_tokens, float* y, size_t ldy);

    // The same of a split matrix, from the upper bits alone.
    void (*approximate)(const PackedMatrix& m, size_t first, size_t last, const QuantRows* xq, size_t token0,
                        size_t n_tokens, float* y, size_t ldy);
};

const LinearKernels& linear_kernels(Isa isa);

}  // namespace edgellm
