// SPDX-License-Identifier: MIT
// The functions of LinearKernels that do not depend on the instruction set, and the form of split matrices.
//
// A split matrix has its codes' upper five bits and lower three in places of their own, so that one can be
// read without the other. The codes are signed bytes with 128 added. One after another:
//   upper   panels of SplitUpper, with the source's scales
//   lower   for each panel and block: 3 x 64 bytes, each three bits of groups j, j + 1 for j = 0, 2, 4, and
//           then two bits of what is left: bits 0 and 1 of group 6, of group 7, and bit 2 of both
//   errors  16 floats for each panel
#pragma once

#include <cstddef>
#include <cstdint>

#include "formats/packing.h"
#include "kernels/linear/linear.h"

namespace edgellm {

// The upper bits as a format of their own: w ~ 8 d * (code - 16).
struct SplitUpper : QuantizedDefaults {
    using Codes = FiveBits;
    using Scales = HalfScales;
    static constexpr int kOffset = 16;
};

constexpr size_t kLowerBlockBytes = 3 * 64;

// Lower bits of panel 0 of a split matrix that begins at `data`.
inline size_t lower_offset(const PackedMatrix& m) {
    return m.n_panels * m.panel_stride;
}
inline size_t lower_panel_bytes(const PackedMatrix& m) {
    return m.n_in / kBlockColumns * kLowerBlockBytes;
}

inline size_t errors_offset(const PackedMatrix& m) {
    return lower_offset(m) + m.n_panels * lower_panel_bytes(m);
}

bool describe_matrix(GGMLType type, size_t n_out, size_t n_in, PackedMatrix* out);
bool pack_panels(const PackedMatrix& m, const uint8_t* rows, size_t first, size_t last, uint8_t* dst);

}  // namespace edgellm
