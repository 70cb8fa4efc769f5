// SPDX-License-Identifier: MIT
// NumPy arrays of single kernels: read-only inputs, and results that own their memory.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstring>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace edgellm {

namespace nb = nanobind;

using ArrayIn = nb::ndarray<const float, nb::c_contig, nb::device::cpu>;
using ArrayOut = nb::ndarray<nb::numpy, float>;

inline void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

// The enumerator whose name is at its own position in `names`.
template <class T>
T choice(const std::string& name, std::initializer_list<const char*> names) {
    int i = 0;
    for (const char* candidate : names) {
        if (name == candidate) return static_cast<T>(i);
        ++i;
    }
    throw std::invalid_argument("unknown name " + name);
}

// Zeros.
inline ArrayOut make_array(const std::vector<size_t>& shape) {
    size_t n = 1;
    for (size_t extent : shape) n *= extent;
    auto* data = new float[n]();
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<float*>(p); });
    return ArrayOut(data, shape.size(), shape.data(), owner);
}

inline ArrayOut copy_of(const ArrayIn& x) {
    std::vector<size_t> shape;
    for (size_t i = 0; i < x.ndim(); ++i) shape.push_back(x.shape(i));
    ArrayOut out = make_array(shape);
    std::memcpy(out.data(), x.data(), x.size() * sizeof(float));
    return out;
}

inline const float* data_or_null(const std::optional<ArrayIn>& x) {
    return x ? x->data() : nullptr;
}

}  // namespace edgellm
