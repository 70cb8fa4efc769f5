// SPDX-License-Identifier: MIT
#include "matrix/matrix.h"

#include <algorithm>
#include <cmath>

#include "base/by_isa.h"
#include "base/share.h"

namespace edgellm {

EDGELLM_MATRIX_SETS(EDGELLM_DECLARE, MatrixKernels, kMatrix)

const MatrixKernels& matrix_kernels(Isa isa) {
    static constexpr ByIsa<MatrixKernels> table = {EDGELLM_MATRIX_SETS(EDGELLM_ENTRY, kMatrix)};
    return table[isa];
}

namespace {

// Terms of a sum that are added at a time: a panel of so many rows stays in the first cache.
constexpr size_t kDepth = 256;
// Panels that a thread takes together.
constexpr size_t kPanelsTogether = 4;
// Columns of a factor that are computed together.
constexpr size_t kFactorColumns = 64;

// n rows of `from` become the columns of a panel, factor times as large; columns past them are 0.
template <class T>
void pack_rows(const T* from, size_t row, size_t n, size_t depth, T factor, T* panel) {
    for (size_t k = 0; k < depth; ++k) {
        for (size_t j = 0; j < kPanel<T>; ++j)
            panel[k * kPanel<T> + j] = j < n ? factor * from[j * row + k] : T(0);
    }
}

}  // namespace

void multiply(const MatrixKernels& kernels, ThreadPool& pool, const float* x, const float* weights,
              size_t rows, size_t n_in, size_t n_out, float* out) {
    constexpr size_t kWidth = kPanel<float>;
    share(pool, n_out, kWidth * kPanelsTogether, [&](size_t begin, size_t end) {
        const size_t width = (end - begin + kWidth - 1) / kWidth * kWidth;
        std::vector<float> panel(kDepth * kWidth), sums(rows * width, 0.0f);
        for (size_t k = 0; k < n_in; k += kDepth) {
            const size_t depth = std::min(kDepth, n_in - k);
            for (size_t j = begin; j < end; j += kWidth) {
                pack_rows(weights + j * n_in + k, n_in, std::min(kWidth, end - j), depth, 1.0f, panel.data());
                kernels.floats(rows, depth, x + k, n_in, 1, panel.data(), sums.data() + (j - begin), width);
            }
        }
        for (size_t i = 0; i < rows; ++i) {
            const float* row = sums.data() + i * width;
            std::copy(row, row + (end - begin), out + i * n_out + begin);
        }
    });
}

void add_moments(const MatrixKernels& kernels, ThreadPool& pool, const float* x, size_t rows, size_t n,
                 float* sums) {
    constexpr size_t kWidth = kPanel<float>;
    const size_t n_panels = (n + kWidth - 1) / kWidth;
    std::vector<float> packed(n_panels * kWidth * std::min(rows, kDepth));
    for (size_t start = 0; start < rows; start += kDepth) {
        const size_t depth = std::min(kDepth, rows - start);
        share(pool, n_panels, 1, [&](size_t p, size_t) {
            const size_t used = std::min(kWidth, n - p * kWidth);
            float* panel = packed.data() + p * kWidth * depth;
            for (size_t k = 0; k < depth; ++k) {
                const float* row = x + (start + k) * n + p * kWidth;
                for (size_t j = 0; j < kWidth; ++j) panel[k * kWidth + j] = j < used ? row[j] : 0.0f;
            }
        });
        // The rows of the result lie in the panels, too.
        share(pool, n_panels, 1, [&](size_t p, size_t) {
            float block[kWidth * kWidth];
            for (size_t q = 0; q <= p; ++q) {
                std::fill(block, block + kWidth * kWidth, 0.0f);
                kernels.floats(kWidth, depth, packed.data() + p * kWidth * depth, 1, kWidth,
                               packed.data() + q * kWidth * depth, block, kWidth);
                for (size_t i = 0; i < std::min(kWidth, n - p * kWidth); ++i) {
                    float* row = sums + (p * kWidth + i) * n + q * kWidth;
                    const size_t columns = q < p ? kWidth : i + 1;
                    for (size_t j = 0; j < columns; ++j) row[j] += block[i * kWidth + j];
                }
            }
        });
    }
}

bool factor(const MatrixKernels& kernels, ThreadPool& pool, double* matrix, size_t n) {
    constexpr size_t kWidth = kPanel<double>;
    std::vector<double> packed(kFactorColumns * n);
    double transposed[kFactorColumns][kFactorColumns];
    for (size_t start = 0; start < n; start += kFactorColumns) {
        const size_t used = std::min(kFactorColumns, n - start);
        for (size_t j = 0; j < used; j += kWidth) {
            pack_rows(matrix + (start + j) * n, n, std::min(kWidth, used - j), start, -1.0,
                      packed.data() + j * start);
        }
        // Subtracts the part that the columns before explain.
        const auto subtract = [&](size_t begin, size_t end) {
            double block[32 * kWidth];
            for (size_t j = 0; j < used; j += kWidth) {
                const size_t width = std::min(kWidth, used - j);
                std::fill(block, block + 32 * kWidth, 0.0);
                for (size_t i = begin; i < end; ++i)
                    std::copy_n(matrix + i * n + start + j, width, block + (i - begin) * kWidth);
                kernels.doubles(end - begin, start, matrix + begin * n, n, 1, packed.data() + j * start,
                                block, kWidth);
                for (size_t i = begin; i < end; ++i)
                    std::copy_n(block + (i - begin) * kWidth, width, matrix + i * n + start + j);
            }
        };
        share(pool, n - start, 32, [&](size_t begin, size_t end) { subtract(start + begin, start + end); });
        for (size_t j = 0; j < used; ++j) {
            double* row = matrix + (start + j) * n + start;
            for (size_t i = 0; i < j; ++i) {
                for (size_t k = 0; k < i; ++k) row[i] -= row[k] * transposed[k][i];
                row[i] /= transposed[i][i];
                row[j] -= row[i] * row[i];
            }
            if (!(row[j] > 0) || !std::isfinite(row[j])) return false;
            row[j] = std::sqrt(row[j]);
            for (size_t i = 0; i <= j; ++i) transposed[i][j] = row[i];
        }
        const size_t below = start + used;
        share(pool, n - below, 32, [&](size_t begin, size_t end) {
            for (size_t i = below + begin; i < below + end; ++i) {
                double* row = matrix + i * n + start;
                for (size_t k = 0; k < used; ++k) {
                    row[k] /= transposed[k][k];
                    for (size_t j = k + 1; j < used; ++j) row[j] -= row[k] * transposed[k][j];
                }
            }
        });
    }
    return true;
}

}  // namespace edgellm
