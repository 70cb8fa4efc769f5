// SPDX-License-Identifier: MIT
// Products and factors of plain matrices, row-major, and exponentials, for calibration. Results are the same
// bits on every machine, for any number of threads and any instruction set.
#pragma once

#include <cstddef>
#include <vector>

#include "base/arch.h"
#include "base/thread_pool.h"

namespace edgellm {

// Columns of the result that a kernel computes together.
template <class T>
inline constexpr size_t kPanel = 64 / sizeof(T);

// c[i][j] += sum over k of a[i * a_row + k * a_step] * b[k][j], j in 0 .. kPanel; rows of b are kPanel long.
template <class T>
using PanelKernel = void (*)(size_t rows, size_t depth, const T* a, size_t a_row, size_t a_step, const T* b,
                             T* c, size_t c_row);

struct MatrixKernels {
    PanelKernel<float> floats;
    PanelKernel<double> doubles;
    // Replaces n values by their exponentials: 0 below -708, at most exp(709).
    void (*exponentials)(double* x, size_t n);
};

const MatrixKernels& matrix_kernels(Isa isa);

// out (rows, n_out) = x (rows, n_in) @ weights (n_out, n_in) transposed.
void multiply(const MatrixKernels& kernels, ThreadPool& pool, const float* x, const float* weights,
              size_t rows, size_t n_in, size_t n_out, float* out);

// The lower triangle of sums (n, n) += that of x (rows, n) transposed @ x.
void add_moments(const MatrixKernels& kernels, ThreadPool& pool, const float* x, size_t rows, size_t n,
                 float* sums);

// Replaces the lower triangle of a symmetric matrix (n, n) by its Cholesky factor. Returns false, and leaves
// neither, for a matrix that is not positive definite.
bool factor(const MatrixKernels& kernels, ThreadPool& pool, double* matrix, size_t n);

}  // namespace edgellm
