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

// Activations that a packed matrix multiplies: float rows, or rows quantized to int8.
enum class InputKind : uint8_t { kFloat, kInt8 };

// Terms of a block of 32 activations beside its codes.
struct QuantTerms {
    float factor;      // an integer of at most kFactorBits significant bits, at most kLargestFactor
    float sum, high;   // factor * (sum of the 32 codes, of the last 16); they apply weight minimums
    int32_t extra[4];  // further terms of the instruction set whose quantize_row wrote them
};
constexpr int kFactorBits = 4;
constexpr int kLargestFactor = 15 << 9;  // times a block's dot with codes of 8 bits it fits 32 bits

// Activations (n_rows, n_in) in the form that int8 panels read. n_in is a multiple of 32.
// x[t][k] ~ unit[t] * factor[t][k / 32] * q[t][k], |q| <= 127.
//
// Rows are in groups of 96 (the last may have fewer), and a group is [block][row][32]. So a tile reads the
// codes of a block from one run of bytes, whose distances do not depend on n_in. One row is a plain row.
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
    bool fetch_into_l2;   // prefetch wide codes into L2, not L1 (CpuTuning)
    bool split;           // codes in two parts, the first enough for `approximate` (pack.h)
    const uint8_t* data;  // 64-byte aligned
};

// Makes a described matrix a split one. False, and nothing changed, if its format cannot be split: only codes
// that are signed bytes can.
bool split_matrix(PackedMatrix* m);
// Bytes of all panels.
size_t matrix_bytes(const PackedMatrix& m);
// Bounds of a split matrix: result r differs from its approximation by at most this times the norm of the
// activations (Cauchy and Schwarz with the norm of the lower bits; a bound of rounding is added).
const float* row_errors(const PackedMatrix& m);
// The norm of a quantized row, rounded up.
float row_norm(const QuantRows& rows, size_t token);

// y[t * ldy + (p - first) * 16 + r] for panels p in [first, last), tokens t in [0, n_tokens). No alignment
// needed of y; rows past n_out are not written.
struct MatmulTask {
    const PackedMatrix& m;
    size_t first, last;
    const QuantRows* xq;  // of int8 matrices: rows token0 + t
    const float* x;       // of float matrices: rows x + (token0 + t) * ldx
    size_t ldx, token0, n_tokens;
    float* y;
    size_t ldy;
};

// Kernels of an instruction set come in parts, by format (parts.h).
constexpr size_t kLinearParts = 4;
struct LinearPart;

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

    const LinearPart* parts[kLinearParts];

    void matmul(const MatmulTask& task) const;

    // The same of a split matrix, from the upper bits alone.
    void approximate(const MatmulTask& task) const;
};

const LinearKernels& linear_kernels(Isa isa);

}  // namespace edgellm
