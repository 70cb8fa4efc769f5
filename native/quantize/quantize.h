// SPDX-License-Identifier: MIT
// Encoding of float values to the blocks of a format, and its error. The bytes are the same on every machine:
// all instruction sets run the same float operations in the same order.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/arch.h"
#include "formats/formats.h"
#include "formats/typed_list.h"

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

// 32 values of a row that stands in units of its own: scale * (q - 2^(kBits - 1)), q in 0 .. 2^kBits - 1,
// where scale is (d / 128)^2 with the sign of d. Squares leave small scales as exact as large ones. These are
// weights of onnxruntime's MatMulNBits before codes are packed. GGUF has no such formats; the numbers are
// this project's own.
template <int kBits>
struct BlockNBits {
    static constexpr GGMLType kType = static_cast<GGMLType>(1000 + kBits);
    static constexpr int kHalf = 1 << (kBits - 1);

    int8_t d;
    uint8_t codes[32];

    static float scale_of(int d) {
        const float root = static_cast<float>(d) * (1.0f / 128);
        return root < 0 ? -root * root : root * root;
    }
    float scale() const { return scale_of(d); }
};

using NBitsBlocks = TypedList<BlockNBits<4>, BlockNBits<5>, BlockNBits<6>, BlockNBits<8>>;

// As find_format, with those of MatMulNBits.
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
