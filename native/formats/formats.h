// SPDX-License-Identifier: MIT
// Every block format a GGUF tensor may have: sizes and a scalar decoder. One header per format family holds
// the struct and the decoder; this file is the table over them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgellm {

// Numbers as in the file.
enum class GGMLType : uint32_t {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ1_S = 19,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    IQ1_M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
};

struct FormatInfo {
    GGMLType type;
    const char* name;
    uint32_t block_size;  // values per block
    uint32_t block_bytes;
    void (*decode)(const uint8_t* blocks, size_t n_blocks, float* out);
};

// nullptr if `type` is not a weight format.
const FormatInfo* find_format(uint32_t type);

// Bytes of a row of n_in values; 0 if n_in is not a multiple of the block size.
size_t row_bytes(const FormatInfo& format, size_t n_in);

}  // namespace edgellm
