// SPDX-License-Identifier: MIT
// The one kernel that products of plain matrices are made of, compiled once per instruction set. Lanes are
// columns of the result and each sum runs in the order of its terms, without fused operations: every
// instruction set gives the same bits.
#pragma once

#include <cstring>
#include <utility>

#include "base/inline.h"
#include "matrix/matrix.h"

namespace edgellm {
namespace {

template <class T>
struct VectorOf {
    typedef T Type __attribute__((vector_size(32)));
};

// Rows of the result that are summed together.
constexpr size_t kTileRows = 6;

template <class T, size_t kRows>
EDGELLM_INLINE void add_rows(size_t depth, const T* a, size_t a_row, size_t a_step, const T* b, T* c,
                             size_t c_row) {
    using V = typename VectorOf<T>::Type;
    constexpr size_t kWidth = kPanel<T>, kLanes = kWidth / 2;
    V sums[kRows][2];
    for (size_t r = 0; r < kRows; ++r) std::memcpy(sums[r], c + r * c_row, sizeof(sums[r]));
    for (size_t k = 0; k < depth; ++k) {
        V low, high;
        std::memcpy(&low, b + k * kWidth, sizeof(V));
        std::memcpy(&high, b + k * kWidth + kLanes, sizeof(V));
        for (size_t r = 0; r < kRows; ++r) {
            const T factor = a[r * a_row + k * a_step];
            sums[r][0] += low * factor;
            sums[r][1] += high * factor;
        }
    }
    for (size_t r = 0; r < kRows; ++r) std::memcpy(c + r * c_row, sums[r], sizeof(sums[r]));
}

template <class T>
void add_panel(size_t rows, size_t depth, const T* a, size_t a_row, size_t a_step, const T* b, T* c,
               size_t c_row) {
    size_t r = 0;
    for (; r + kTileRows <= rows; r += kTileRows) {
        add_rows<T, kTileRows>(depth, a + r * a_row, a_row, a_step, b, c + r * c_row, c_row);
    }
    for (; r + 2 <= rows; r += 2)
        add_rows<T, 2>(depth, a + r * a_row, a_row, a_step, b, c + r * c_row, c_row);
    if (r < rows) add_rows<T, 1>(depth, a + r * a_row, a_row, a_step, b, c + r * c_row, c_row);
}

constexpr MatrixKernels kMatrixTable = {add_panel<float>, add_panel<double>};

}  // namespace
}  // namespace edgellm
