// SPDX-License-Identifier: MIT
// y = x W^T for weights in any GGUF format, over packed panels of 16 rows.
//
// A weight matrix (n_out, n_in) is packed once at load into ceil(n_out / 16) panels. A panel holds 16 rows,
// interleaved so that a vector lane is a row: quantized formats in blocks of 16 rows x 32 columns (8 groups
// of 4 columns; see layout.h), float formats column by column. Rows past n_out are zero.
//
// Results are batch-invariant: y[t][r] is computed by one fixed sequence of operations (integer dots of a
// 32-column block are exact; blocks are added in ascending order by float fma), whatever n_tokens is.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/arch.h"
#include "formats/formats.h"

namespace edgellm {

constexpr size_t kPanelRows = 16;
constexpr size_t kBlockColumns = 32;

// What a packed matrix multiplies: float rows, or rows quantized to int8.
enum class InputKind : uint8_t { kFloat, kInt8 };

// Activations (n_tokens, n_in) in the form that int8 panels read. n_in is a multiple of 32.
// x[t][k] ~ scale[t][k / 32] * q[t][k], |q| <= 127.
struct QuantRows {
    int8_t* q;     // [token][n_in], 64-byte aligned, row stride n_in
    float* scale;  // [token][n_in / 32]
    float* sum16;  // [token][n_in / 16]: [2 b] = scale * (sum of q over the 32 columns of block b), [2 b + 1]
                   // the same over its last 16; they remove weight offsets and apply weight minimums
};
// Bytes of one token's q, scale and sum16 together, for sizing the arena (each part 64-byte aligned).
size_t quant_row_bytes(size_t n_in);

struct PackedMatrix {
    GGMLType type;  // format of the source
    InputKind input;
    uint32_t n_out, n_in;
    size_t n_panels;      // ceil(n_out / 16)
    size_t panel_bytes;   // bytes of one packed panel, a multiple of 64
    size_t panel_stride;  // distance between panels: panel_bytes, or more where two matrices are interleaved
    const uint8_t* data;  // 64-byte aligned
};

struct LinearKernels {
    // Fills every field but `data` (panel_stride = panel_bytes). False if the format cannot be a weight or
    // n_in does not fit the format's block.
    bool (*describe)(GGMLType type, size_t n_out, size_t n_in, PackedMatrix* out);

    // Packs panels [first, last) into dst (the address of panel 0; uses m.panel_stride). `rows` is row 0 of
    // the source, rows contiguous. Returns false if a scale or float weight is NaN or infinite.
    bool (*pack)(const PackedMatrix& m, const uint8_t* rows, size_t first, size_t last, uint8_t* dst);

    // Quantizes one token's row: x has n_in floats; writes row `token` of `out`.
    void (*quantize_row)(const float* x, size_t n_in, const QuantRows& out, size_t token);

    // y[t * ldy + (p - first) * 16 + r] for panels p in [first, last), tokens t in [0, n_tokens).
    // Int8 matrices read xq rows token0 + t; float matrices read x + (token0 + t) * ldx. No alignment needed
    // of y; rows past n_out are not written.
    void (*matmul)(const PackedMatrix& m, size_t first, size_t last, const QuantRows* xq, const float* x,
                   size_t ldx, size_t token0, size_t n_tokens, float* y, size_t ldy);
};

const LinearKernels& linear_kernels(Isa isa);

}  // namespace edgellm
