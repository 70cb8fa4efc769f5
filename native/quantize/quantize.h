// SPDX-License-Identifier: MIT
// Encoding of float values to the blocks of a format, and its error. The bytes are the same on every machine:
// all instruction sets run the same float operations in the same order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/arch.h"
#include "formats/formats.h"

namespace edgellm {

enum class EncodeStatus : uint8_t {
    kDone,
    kNotFinite,  // a value is NaN or infinite
    kTooLarge,   // a value, or the scale of a block, exceeds what the format can hold
};

struct Encoder {
    GGMLType type;
    // n_blocks blocks of values x, one after another; importance: of each value, or nullptr where all count
    // the same.
    EncodeStatus (*encode)(const float* x, const float* importance, size_t n_blocks, uint8_t* out);
};

// 32 values d * (q - zero), q and zero in 0 .. 15; byte i of qs holds q of values 2i and 2i + 1. These are
// the weights of onnxruntime's MatMulNBits. GGUF has no such format; the number is this project's own.
struct BlockZero4 {
    uint8_t d[4];  // float
    uint8_t zero;
    uint8_t qs[16];
};
static_assert(sizeof(BlockZero4) == 21);
inline constexpr GGMLType kZero4 = static_cast<GGMLType>(1000);

// As find_format, with kZero4.
const FormatInfo* find_encodable(uint32_t type);

// nullptr if there is no encoder for `type`.
const Encoder* find_encoder(uint32_t type, Isa isa);

// x: (rows, cols); importance: nullptr, or (cols) finite, not negative, not all zero; out: rows *
// row_bytes(format, cols), cols a multiple of the block size.
EncodeStatus encode_rows(const Encoder& encoder, const FormatInfo& format, const float* x,
                         const float* importance, size_t rows, size_t cols, size_t n_threads, uint8_t* out);

// n_values of `blocks` as floats; n_values is a multiple of the block size.
void decode_values(const FormatInfo& format, const uint8_t* blocks, size_t n_values, size_t n_threads,
                   float* out);

// Sums over all values of weight * (decoded - x)^2 and weight * x^2, weight 1 without importance.
struct ErrorSums {
    double error = 0, power = 0;
};
ErrorSums encoding_error(const FormatInfo& format, const uint8_t* blocks, const float* x,
                         const float* importance, size_t rows, size_t cols, size_t n_threads);

}  // namespace edgellm
