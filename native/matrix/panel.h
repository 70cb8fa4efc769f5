// SPDX-License-Identifier: MIT
// The kernel that products of plain matrices are made of, and exponentials, compiled once per instruction
// set. Lanes are columns of the result and each sum runs in the order of its terms, each added by one fused
// operation: every instruction set gives the same bits. Without instructions for it, the mathematical
// library's fma is slow.
#pragma once

#ifdef __FMA__
#include <immintrin.h>
#endif

#include <algorithm>
#include <cstdint>
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

// sums += x * factor.
#ifdef __FMA__
EDGELLM_INLINE void add_product(VectorOf<float>::Type& sums, VectorOf<float>::Type x, float factor) {
    sums = (VectorOf<float>::Type)_mm256_fmadd_ps((__m256)x, _mm256_set1_ps(factor), (__m256)sums);
}
EDGELLM_INLINE void add_product(VectorOf<double>::Type& sums, VectorOf<double>::Type x, double factor) {
    sums = (VectorOf<double>::Type)_mm256_fmadd_pd((__m256d)x, _mm256_set1_pd(factor), (__m256d)sums);
}
#else
template <class V, class T>
EDGELLM_INLINE void add_product(V& sums, V x, T factor) {
    for (size_t i = 0; i < sizeof(V) / sizeof(T); ++i) {
        if constexpr (sizeof(T) == sizeof(float)) {
            sums[i] = __builtin_fmaf(x[i], factor, sums[i]);
        } else {
            sums[i] = __builtin_fma(x[i], factor, sums[i]);
        }
    }
}
#endif

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
            add_product(sums[r][0], low, factor);
            add_product(sums[r][1], high, factor);
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
    if (r + 4 <= rows) {
        add_rows<T, 4>(depth, a + r * a_row, a_row, a_step, b, c + r * c_row, c_row);
        r += 4;
    }
    if (r + 2 <= rows) {
        add_rows<T, 2>(depth, a + r * a_row, a_row, a_step, b, c + r * c_row, c_row);
        r += 2;
    }
    if (r < rows) add_rows<T, 1>(depth, a + r * a_row, a_row, a_step, b, c + r * c_row, c_row);
}

// exp(r) by Taylor's series, r what is left of x by whole multiples of ln 2, which is in two parts.
EDGELLM_INLINE VectorOf<double>::Type exponential(VectorOf<double>::Type x) {
    using V = VectorOf<double>::Type;
    typedef int64_t I __attribute__((vector_size(32)));
    constexpr double kShift = 0x1.8p52;  // leaves no fraction, and the integer in the lowest bits
    constexpr double kLowest = -708, kHighest = 709;
    const V lowest = V{} + kLowest, highest = V{} + kHighest;
    const I below = x<lowest, above = x> highest;
    x = (V)(((I)x & ~(below | above)) | ((I)lowest & below) | ((I)highest & above));
    const V shifted = x * 1.44269504088896338700 + kShift;
    const V whole = shifted - kShift;
    const V r = x - whole * 6.93147180369123816490e-01 - whole * 1.90821492927058770002e-10;
    V sum = V{} + 1.0;
    for (int i = 13; i > 0; --i) sum = sum * r * (1.0 / i) + 1.0;
    const I power = ((I)shifted + 1023) << 52;
    return (V)((I)(sum * (V)power) & ~below);
}

void exponentials(double* x, size_t n) {
    using V = VectorOf<double>::Type;
    constexpr size_t kLanes = sizeof(V) / sizeof(double);
    for (size_t i = 0; i < n; i += kLanes) {
        const size_t bytes = std::min(kLanes, n - i) * sizeof(double);
        V values{};
        std::memcpy(&values, x + i, bytes);
        values = exponential(values);
        std::memcpy(x + i, &values, bytes);
    }
}

constexpr MatrixKernels kMatrixTable = {add_panel<float>, add_panel<double>, exponentials};

}  // namespace
}  // namespace edgellm
