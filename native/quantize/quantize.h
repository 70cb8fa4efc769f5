// SPDX-License-Identifier: MIT
// From float values to the blocks of a format, and what that loses. The same bytes come out on every machine:
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
