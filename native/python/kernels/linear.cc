// SPDX-License-Identifier: MIT
// Weight formats and linear kernels.
#include "kernels/linear/linear.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "base/arch.h"
#include "base/memory.h"
#include "base/thread_pool.h"
#include "formats/formats.h"
#include "python/kernels/arrays.h"
#include "python/kernels/bindings.h"
#include "python/usable_isa.h"

namespace nb = nanobind;
using namespace edgellm;

namespace {

using Raw = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatsOut = nb::ndarray<nb::numpy, float>;
using CodesOut = nb::ndarray<nb::numpy, int8_t>;

template <class T>
T* aligned_array(size_t n) {
    const size_t bytes = (n * sizeof(T) + 64) / 64 * 64;
    void* data = std::aligned_alloc(64, bytes);
    if (data == nullptr) throw std::bad_alloc();
    return static_cast<T*>(data);
}

struct Free {
    void operator()(void* p) const { std::free(p); }
};
template <class T>
using Buffer = std::unique_ptr<T[], Free>;

template <class Out, class T>
Out to_numpy(T* data, std::initializer_list<size_t> shape) {
    nb::capsule owner(data, [](void* p) noexcept { std::free(p); });
    return Out(data, shape.size(), shape.begin(), owner);
}

// Quantized activation rows that own their memory.
struct OwnedRows {
    Buffer<uint8_t> memory;
    QuantRows rows;

    OwnedRows(const LinearKernels& kernels, const float* x, size_t n_tokens, size_t n_in)
        : memory(aligned_array<uint8_t>(n_tokens * quant_row_bytes(n_in))),
          rows(quant_rows_in(memory.get(), n_in, n_tokens, n_tokens)) {
        for (size_t t = 0; t < n_tokens; ++t) kernels.quantize_row(x + t * n_in, rows, t);
    }
};

const FormatInfo& format_of(uint32_t type) {
    const FormatInfo* format = find_format(type);
    require(format != nullptr, "no weight format has this type number");
    return *format;
}

FloatsOut decode(uint32_t type, Raw raw) {
    const FormatInfo& format = format_of(type);
    require(raw.size() % format.block_bytes == 0, "raw must be whole blocks");
    const size_t n_blocks = raw.size() / format.block_bytes, n = n_blocks * format.block_size;
    auto* values = aligned_array<float>(n);
    format.decode(raw.data(), n_blocks, values);
    return to_numpy<FloatsOut>(values, {n});
}

std::tuple<CodesOut, FloatsOut, FloatsOut> quantize(const std::string& isa, Matrix x) {
    const size_t n = x.shape(0), n_in = x.shape(1);
    require(n_in % 32 == 0, "rows are multiples of 32 values");
    const size_t n_blocks = n_in / 32;
    const OwnedRows owned(linear_kernels(usable_isa(isa)), x.data(), n, n_in);
    const QuantRows& rows = owned.rows;
    auto* codes = aligned_array<int8_t>(n * n_in);
    CodesOut codes_out = to_numpy<CodesOut>(codes, {n, n_in});
    auto* scale = aligned_array<float>(n * n_blocks);
    FloatsOut scale_out = to_numpy<FloatsOut>(scale, {n, n_blocks});
    auto* sum = aligned_array<float>(2 * n * n_blocks);
    FloatsOut sum_out = to_numpy<FloatsOut>(sum, {n, 2 * n_blocks});
    for (size_t t = 0; t < n; ++t) {
        for (size_t b = 0; b < n_blocks; ++b) {
            const size_t i = rows.index(t, b), at = t * n_blocks + b;
            std::copy_n(rows.q + 32 * i, 32, codes + 32 * at);
            scale[at] = rows.unit[t] * rows.terms[i].factor;
            sum[2 * at] = rows.unit[t] * rows.terms[i].sum;
            sum[2 * at + 1] = rows.unit[t] * rows.terms[i].high;
        }
    }
    return {codes_out, scale_out, sum_out};
}

class Linear {
  public:
    Linear(const std::string& isa, uint32_t type, size_t n_out, size_t n_in, Raw raw, bool split)
        : kernels_(linear_kernels(usable_isa(isa))) {
        require(kernels_.describe(format_of(type).type, n_out, n_in, &matrix_),
                "rows must be whole blocks of the format");
        require(!split || split_matrix(&matrix_), "matrices of this format cannot be split");
        require(raw.size() == n_out * row_bytes(format_of(type), n_in), "raw must be n_out rows");
        data_ = Region(nbytes(), true);
        require(kernels_.pack(matrix_, raw.data(), 0, matrix_.n_panels, data_.data()),
                "weights hold NaN or infinity");
        matrix_.data = data_.data();
    }

    size_t nbytes() const { return matrix_bytes(matrix_); }

    // Multiplies `step` panels a call; tokens from `token0` on in one call.
    FloatsOut matmul(Matrix x, size_t step, size_t token0) const {
        require(x.shape(1) == matrix_.n_in && token0 <= x.shape(0) && step > 0, "x is (n_tokens, n_in)");
        const size_t n = x.shape(0), n_tokens = n - token0, ldy = matrix_.n_out;
        auto* y = aligned_array<float>(n_tokens * ldy);
        FloatsOut out = to_numpy<FloatsOut>(y, {n_tokens, ldy});
        const auto run = [&](const QuantRows* rows) {
            for (size_t p = 0; p < matrix_.n_panels; p += step) {
                kernels_.matmul({matrix_, p, std::min(p + step, matrix_.n_panels), rows, x.data(),
                                 matrix_.n_in, token0, n_tokens, y + p * kPanelRows, ldy});
            }
        };
        if (matrix_.input == InputKind::kFloat) {
            run(nullptr);
        } else {
            const OwnedRows owned(kernels_, x.data(), n, matrix_.n_in);
            run(&owned.rows);
        }
        return out;
    }

    // Approximate products of a split matrix, and bounds of their errors.
    std::tuple<FloatsOut, FloatsOut> approximate(Matrix x) const {
        require(matrix_.split && x.shape(1) == matrix_.n_in, "x is (n_tokens, n_in), the matrix is split");
        const size_t n = x.shape(0), n_out = matrix_.n_out;
        auto* y = aligned_array<float>(n * n_out);
        FloatsOut y_out = to_numpy<FloatsOut>(y, {n, n_out});
        auto* errors = aligned_array<float>(n * n_out);
        FloatsOut errors_out = to_numpy<FloatsOut>(errors, {n, n_out});
        const OwnedRows owned(kernels_, x.data(), n, matrix_.n_in);
        kernels_.approximate({matrix_, 0, matrix_.n_panels, &owned.rows, nullptr, 0, 0, n, y, n_out});
        for (size_t t = 0; t < n; ++t) {
            const float norm = row_norm(owned.rows, t);
            for (size_t r = 0; r < n_out; ++r) errors[t * n_out + r] = row_errors(matrix_)[r] * norm;
        }
        return {y_out, errors_out};
    }

    const LinearKernels& kernels() const { return kernels_; }
    const PackedMatrix& matrix() const { return matrix_; }

  private:
    const LinearKernels& kernels_;
    PackedMatrix matrix_{};
    Region data_;  // in large pages, as the engine has them
};

// One product, ready to be repeated for a benchmark: every thread multiplies a contiguous share of the
// panels.
class LinearRun {
  public:
    LinearRun(const Linear& linear, Matrix x, size_t threads)
        : kernels_(linear.kernels()),
          matrix_(linear.matrix()),
          n_tokens_(x.shape(0)),
          x_(x.data(), x.data() + x.size()),
          y_(n_tokens_ * matrix_.n_out),
          pool_((require(threads > 0 && threads <= 64, "threads must be 1 to 64"), threads), true) {
        require(x.shape(1) == matrix_.n_in, "x is (n_tokens, n_in)");
        if (matrix_.input == InputKind::kInt8) {
            rows_ = std::make_unique<OwnedRows>(kernels_, x_.data(), n_tokens_, matrix_.n_in);
        }
    }

    void run() {
        const nb::gil_scoped_release unlocked;
        pool_.run([this](size_t thread) {
            const size_t first = matrix_.n_panels * thread / pool_.size();
            const size_t last = matrix_.n_panels * (thread + 1) / pool_.size();
            // As many panels at a time as an engine's tile of results holds.
            for (size_t p = first; p < last; p += kPanels) {
                kernels_.matmul({matrix_, p, std::min(p + kPanels, last), rows_ ? &rows_->rows : nullptr,
                                 x_.data(), matrix_.n_in, 0, n_tokens_, y_.data() + p * kPanelRows,
                                 matrix_.n_out});
            }
        });
    }

  private:
    static constexpr size_t kPanels = 8;
    const LinearKernels& kernels_;
    const PackedMatrix matrix_;
    size_t n_tokens_;
    std::vector<float> x_, y_;
    std::unique_ptr<OwnedRows> rows_;
    ThreadPool pool_;
};

}  // namespace

void bind_linear(nb::module_& m) {
    using namespace nb::literals;
    m.def("decode", &decode, "type"_a, "raw"_a, "Values of whole blocks of a GGUF tensor type, float32.");
    m.def("quantize", &quantize, "isa"_a, "x"_a,
          "(n, n_in) rows as int8 codes, a scale per 32, and scaled sums per 32 (even) and last 16 (odd).");
    nb::class_<Linear>(m, "Linear")
        .def(nb::init<const std::string&, uint32_t, size_t, size_t, Raw, bool>(), "isa"_a, "type"_a,
             "n_out"_a, "n_in"_a, "raw"_a, "split"_a = false)
        .def_prop_ro("nbytes", &Linear::nbytes)
        .def("matmul", &Linear::matmul, "x"_a, "step"_a = 1 << 30, "token0"_a = 0)
        .def("approximate", &Linear::approximate, "x"_a);
    nb::class_<LinearRun>(m, "LinearRun")
        .def(nb::init<const Linear&, Matrix, size_t>(), "linear"_a, "x"_a, "threads"_a,
             nb::keep_alive<1, 2>())
        .def("run", &LinearRun::run);
}
