// SPDX-License-Identifier: MIT
// edgellm._native.quantize, dequantize and quantization_error: whole tensors, on several threads.
#include "quantize/quantize.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

#include "base/arch.h"
#include "base/float_mode.h"
#include "python/bindings.h"

namespace nb = nanobind;
using namespace edgellm;

namespace {

using Values = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Importance = std::optional<nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>>;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T>
nb::ndarray<nb::numpy, T> own(std::unique_ptr<T[]> data, size_t n) {
    T* pointer = data.get();
    nb::capsule owner(pointer, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    data.release();
    return nb::ndarray<nb::numpy, T>(pointer, {n}, owner);
}

const FormatInfo& format_of(uint32_t type) {
    const FormatInfo* format = find_encodable(type);
    if (format == nullptr) throw std::invalid_argument("not a weight format");
    return *format;
}

const float* importance_of(const Importance& importance, size_t cols) {
    if (!importance) return nullptr;
    if (importance->shape(0) != cols) throw std::invalid_argument("one importance for each column is needed");
    return importance->data();
}

size_t encoded_bytes(const FormatInfo& format, const Values& values) {
    const size_t bytes = row_bytes(format, values.shape(1));
    if (bytes == 0 && values.shape(1) != 0) throw std::invalid_argument("rows are not whole blocks");
    return values.shape(0) * bytes;
}

nb::ndarray<nb::numpy, uint8_t> quantize(uint32_t type, Values values, Importance importance, size_t threads,
                                         bool scalar) {
    const FormatInfo& format = format_of(type);
    const Encoder* encoder = find_encoder(type, scalar ? Isa::kScalar : best_isa(detect_cpu()));
    if (encoder == nullptr) throw std::invalid_argument("the format has no encoder");
    const float* weights = importance_of(importance, values.shape(1));
    const size_t n_bytes = encoded_bytes(format, values);
    std::unique_ptr<uint8_t[]> out(new uint8_t[n_bytes]);
    EncodeStatus status;
    {
        nb::gil_scoped_release release;
        status = encode_rows(*encoder, format, values.data(), weights, values.shape(0), values.shape(1),
                             threads, out.get());
    }
    if (status == EncodeStatus::kNotFinite) throw std::overflow_error("NaN or infinite");
    if (status == EncodeStatus::kTooLarge) throw std::overflow_error("too large");
    return own(std::move(out), n_bytes);
}

nb::ndarray<nb::numpy, float> dequantize(uint32_t type, Bytes bytes, size_t n_values, size_t threads) {
    const FormatInfo& format = format_of(type);
    if (n_values % format.block_size || bytes.shape(0) != n_values / format.block_size * format.block_bytes) {
        throw std::invalid_argument("the bytes do not hold that many values");
    }
    std::unique_ptr<float[]> out(new float[n_values]);
    {
        nb::gil_scoped_release release;
        decode_values(format, bytes.data(), n_values, threads, out.get());
    }
    return own(std::move(out), n_values);
}

std::pair<double, double> quantization_error(uint32_t type, Bytes bytes, Values values, Importance importance,
                                             size_t threads) {
    const FormatInfo& format = format_of(type);
    const float* weights = importance_of(importance, values.shape(1));
    if (bytes.shape(0) != encoded_bytes(format, values))
        throw std::invalid_argument("the bytes are not of these values");
    nb::gil_scoped_release release;
    const ErrorSums sums = encoding_error(format, bytes.data(), values.data(), weights, values.shape(0),
                                          values.shape(1), threads);
    return {sums.error, sums.power};
}

}  // namespace

void bind_quantize(nb::module_& m) {
    m.def("quantize", quantize, nb::call_guard<FloatMode>(), nb::arg("type"), nb::arg("values"),
          nb::arg("importance").none(), nb::arg("threads"), nb::arg("scalar") = false,
          "The bytes of a matrix in a format, scales chosen for the least weighted square error. scalar: "
          "without\nthe instruction sets of this machine. OverflowError: a value is NaN, infinite or too "
          "large.");
    m.def("dequantize", dequantize, nb::call_guard<FloatMode>(), nb::arg("type"), nb::arg("bytes"),
          nb::arg("n_values"), nb::arg("threads"), "The values of whole blocks of a format.");
    m.def("quantization_error", quantization_error, nb::call_guard<FloatMode>(), nb::arg("type"),
          nb::arg("bytes"), nb::arg("values"), nb::arg("importance").none(), nb::arg("threads"),
          "(Weighted) sums of square differences and of squares.");
}
