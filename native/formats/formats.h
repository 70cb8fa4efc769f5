// SPDX-License-Identifier: MIT
// Weight formats of GGUF: number, block size and decoder of each. list.h names them, one description each.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgellm {

// A tensor type's number in the file. A description in this folder gives a format its number.
enum class GGMLType : uint32_t {};

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
