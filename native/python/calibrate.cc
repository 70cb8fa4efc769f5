// SPDX-License-Identifier: MIT
// edgellm._native.multiply, add_moments and exponentials, which calibration runs a model with, and Feedback.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <utility>

#include "base/arch.h"
#include "base/float_mode.h"
#include "base/share.h"
#include "matrix/matrix.h"
#include "python/bindings.h"
#include "quantize/feedback.h"

namespace nb = nanobind;
using namespace edgellm;

namespace {

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Sums = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Doubles = nb::ndarray<double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

Isa chosen_isa(bool scalar) {
    return scalar ? Isa::kScalar : best_isa(detect_cpu());
}

void multiply_into(Matrix x, Matrix weights, Sums out, size_t threads, bool scalar) {
    if (x.shape(1) != weights.shape(1) || out.shape(0) != x.shape(0) || out.shape(1) != weights.shape(0))
        throw std::invalid_argument("the shapes do not fit");
    nb::gil_scoped_release release;
    ThreadPool pool(threads, /*spin=*/false);
    multiply(matrix_kernels(chosen_isa(scalar)), pool, x.data(), weights.data(), x.shape(0), x.shape(1),
             weights.shape(0), out.data());
}

void add_moments_into(Matrix x, Sums sums, size_t threads, bool scalar) {
    if (sums.shape(0) != x.shape(1) || sums.shape(1) != x.shape(1))
        throw std::invalid_argument("the shapes do not fit");
    nb::gil_scoped_release release;
    ThreadPool pool(threads, /*spin=*/false);
    add_moments(matrix_kernels(chosen_isa(scalar)), pool, x.data(), x.shape(0), x.shape(1), sums.data());
}

void exponentials_of(Doubles x, size_t threads, bool scalar) {
    // So few values take less time than to wake a thread.
    constexpr size_t kPiece = 1 << 14;
    nb::gil_scoped_release release;
    ThreadPool pool(std::clamp<size_t>(x.shape(0) / kPiece, 1, threads), /*spin=*/false);
    const MatrixKernels& kernels = matrix_kernels(chosen_isa(scalar));
    share(pool, x.shape(0), kPiece,
          [&](size_t begin, size_t end) { kernels.exponentials(x.data() + begin, end - begin); });
}

// Feedback with its own pool.
class BoundFeedback {
  public:
    BoundFeedback(Matrix moments, size_t block, double shrink, double damp, size_t threads, bool scalar)
        : isa_(chosen_isa(scalar)), pool_(threads, /*spin=*/false) {
        const size_t n = moments.shape(0);
        if (moments.shape(1) != n || block == 0 || block % 32 || n % block)
            throw std::invalid_argument("moments must be a square matrix of whole blocks");
        nb::gil_scoped_release release;
        feedback_ =
            std::make_unique<Feedback>(matrix_kernels(isa_), pool_, moments.data(), n, block, shrink, damp);
        if (!feedback_->valid()) throw std::invalid_argument("the moments are not those of any inputs");
    }

    void encode(uint32_t type, Matrix values, Bytes out) {
        const FormatInfo* format = find_encodable(type);
        const Encoder* encoder = find_encoder(type, isa_);
        if (format == nullptr || encoder == nullptr || !takes_feedback(format->type))
            throw std::invalid_argument("the format takes no feedback");
        if (format->block_size != feedback_->block() || values.shape(1) != feedback_->columns() ||
            out.shape(0) != values.shape(0) * row_bytes(*format, values.shape(1)))
            throw std::invalid_argument("the shapes do not fit");
        EncodeStatus status;
        {
            nb::gil_scoped_release release;
            status = feedback_->encode(pool_, *encoder, *format, values.data(), values.shape(0), out.data());
        }
        if (status == EncodeStatus::kNotFinite) throw std::overflow_error("NaN or infinite");
        if (status == EncodeStatus::kTooLarge) throw std::overflow_error("too large");
    }

  private:
    Isa isa_;
    ThreadPool pool_;
    std::unique_ptr<Feedback> feedback_;
};

}  // namespace

void bind_calibrate(nb::module_& m) {
    m.def("multiply", multiply_into, nb::call_guard<FloatMode>(), nb::arg("x"), nb::arg("weights"),
          nb::arg("out"), nb::arg("threads"), nb::arg("scalar") = false,
          "out = x @ weights.T, the same bits on every machine.");
    m.def("add_moments", add_moments_into, nb::call_guard<FloatMode>(), nb::arg("x"), nb::arg("sums"),
          nb::arg("threads"), nb::arg("scalar") = false,
          "The lower triangle of sums += that of x.T @ x, the same bits on every machine.");
    m.def("exponentials", exponentials_of, nb::call_guard<FloatMode>(), nb::arg("x"), nb::arg("threads"),
          nb::arg("scalar") = false, "x = exp(x), the same bits on every machine.");
    m.def(
        "takes_feedback", [](uint32_t type) { return takes_feedback(static_cast<GGMLType>(type)); },
        nb::arg("type"), "True if Feedback can encode the format.");
    nb::class_<BoundFeedback>(m, "Feedback",
                              "Encodes matrices, errors of done columns made up for by others.")
        .def(nb::init<Matrix, size_t, double, double, size_t, bool>(), nb::call_guard<FloatMode>(),
             nb::arg("moments"), nb::arg("block"), nb::arg("shrink"), nb::arg("damp"), nb::arg("threads"),
             nb::arg("scalar") = false, "ValueError: the moments are not those of any inputs.")
        .def("encode", &BoundFeedback::encode, nb::call_guard<FloatMode>(), nb::arg("type"),
             nb::arg("values"), nb::arg("out"),
             "Writes the bytes of a matrix. OverflowError: a value is NaN, infinite or too large.");
}
