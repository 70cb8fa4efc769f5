// SPDX-License-Identifier: MIT
// Float matrices that the engine's results are written to.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <memory>

#include "base/memory.h"

namespace edgellm {

namespace nb = nanobind;

// A memoryview, not NumPy's array: a start to the first token has no time to import NumPy.
using FloatMatrix = nb::ndarray<nb::memview, float, nb::ndim<2>, nb::c_contig>;

inline FloatMatrix new_matrix(size_t rows, size_t columns) {
    auto* data = new float[std::max<size_t>(1, rows * columns)];
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return FloatMatrix(data, {rows, columns}, owner);
}

// The logits of one step after another, in the same memory. Matrices of ever another size would fragment the
// allocator's memory until none of it can be given back. Pages become resident with the most rows of one
// step. The caller holds the GIL.
class LogitsBuffer {
  public:
    LogitsBuffer(size_t most_rows, size_t columns)
        : columns_(columns), shared_(std::make_shared<Shared>(most_rows * columns)) {}

    // Uninitialized rows; in memory of their own while an earlier matrix is still held.
    FloatMatrix matrix(size_t rows) {
        const size_t n_bytes = rows * columns_ * sizeof(float);
        if (n_bytes == 0 || n_bytes > shared_->region.size() || shared_->lent)
            return new_matrix(rows, columns_);
        auto borrowed = std::make_unique<std::shared_ptr<Shared>>(shared_);
        nb::capsule owner(borrowed.get(), [](void* p) noexcept {
            const std::unique_ptr<std::shared_ptr<Shared>> ended(static_cast<std::shared_ptr<Shared>*>(p));
            (*ended)->lent = false;
        });
        borrowed.release();
        shared_->lent = true;
        return FloatMatrix(reinterpret_cast<float*>(shared_->region.data()), {rows, columns_}, owner);
    }

  private:
    struct Shared {
        explicit Shared(size_t n_floats) : region(n_floats * sizeof(float), false) {}
        Region region;
        bool lent = false;
    };

    size_t columns_;
    std::shared_ptr<Shared> shared_;  // shared with the matrices, which may outlive the engine
};

}  // namespace edgellm
