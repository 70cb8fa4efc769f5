// SPDX-License-Identifier: MIT
// Kernels that carry a recurrent state along one sequence.
#include "kernels/state/state.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <string>
#include <utility>

#include "python/kernels/arrays.h"
#include "python/kernels/bindings.h"
#include "python/usable_isa.h"

namespace nb = nanobind;
using namespace edgellm;

namespace {

// Results, and the state after the last token.
using ResultAndState = std::pair<ArrayOut, ArrayOut>;

ResultAndState short_conv(const std::string& isa, ArrayIn x, ArrayIn weight, std::optional<ArrayIn> bias,
                          bool silu, ArrayIn state, size_t first, size_t last) {
    require(x.ndim() == 2 && weight.ndim() == 2 && weight.shape(0) == x.shape(1),
            "x (n, width), weight (width, taps)");
    const size_t width = x.shape(1), taps = weight.shape(1);
    require(state.size() == (taps - 1) * width && first <= last && last <= width,
            "state is (taps - 1, width)");
    ArrayOut y = make_array({x.shape(0), width}), next = copy_of(state);
    state_kernels(usable_isa(isa))
        .short_conv(x.data(), width, y.data(), width, x.shape(0), width, taps, weight.data(),
                    data_or_null(bias), silu, first, last, next.data());
    return {y, next};
}

class GatedDelta {
  public:
    GatedDelta(const std::string& isa, float scale, bool tiled)
        : kernels_(state_kernels(usable_isa(isa))), scale_(scale), tiled_(tiled) {}

    ResultAndState run(ArrayIn q, ArrayIn k, ArrayIn v, ArrayIn decay, ArrayIn beta, ArrayIn state,
                       size_t first, size_t last) const {
        require(state.ndim() == 3 && q.ndim() == 2 && v.ndim() == 2,
                "state is (n_heads, key_dim, value_dim)");
        const size_t n_heads = state.shape(0), key_dim = state.shape(1), value_dim = state.shape(2),
                     n = q.shape(0);
        require(q.shape(1) % key_dim == 0 && v.shape(1) == n_heads * value_dim && decay.shape(1) == n_heads,
                "widths");
        ArrayOut y = make_array({n, n_heads * value_dim}), next = copy_of(state);
        kernels_.gated_delta(q.data(), q.shape(1), k.data(), k.shape(1), v.data(), v.shape(1), decay.data(),
                             n_heads, beta.data(), n_heads, n, n_heads, q.shape(1) / key_dim, key_dim,
                             value_dim, scale_, tiled_, first, last, y.data(), n_heads * value_dim,
                             next.data());
        return {y, next};
    }

  private:
    const StateKernels& kernels_;
    float scale_;
    bool tiled_;
};

class Ssm {
  public:
    Ssm(const std::string& isa, ArrayIn a, ArrayIn d, ArrayIn dt_bias, size_t n_groups)
        : kernels_(state_kernels(usable_isa(isa))), a_(a), d_(d), dt_bias_(dt_bias), n_groups_(n_groups) {
        require(d.size() == a.size() && dt_bias.size() == a.size(), "a, d and dt_bias have one value a head");
    }

    ResultAndState run(ArrayIn x, ArrayIn b, ArrayIn c, ArrayIn dt, ArrayIn state, size_t first,
                       size_t last) const {
        require(state.ndim() == 3 && x.ndim() == 2, "state is (n_heads, head_dim, d_state)");
        const size_t n_heads = state.shape(0), head_dim = state.shape(1), d_state = state.shape(2),
                     n = x.shape(0);
        require(n_heads == a_.size() && x.shape(1) == n_heads * head_dim && b.shape(1) == n_groups_ * d_state,
                "widths");
        ArrayOut y = make_array({n, n_heads * head_dim}), next = copy_of(state);
        kernels_.ssm(x.data(), x.shape(1), b.data(), b.shape(1), c.data(), c.shape(1), dt.data(), n_heads,
                     a_.data(), d_.data(), dt_bias_.data(), n, n_heads, head_dim, n_groups_, d_state, first,
                     last, y.data(), x.shape(1), next.data());
        return {y, next};
    }

  private:
    const StateKernels& kernels_;
    ArrayIn a_, d_, dt_bias_;
    size_t n_groups_;
};

}  // namespace

void bind_state(nb::module_& m) {
    using namespace nb::literals;
    m.def("short_conv", &short_conv, "isa"_a, "x"_a, "weight"_a, "bias"_a.none(), "silu"_a, "state"_a,
          "first"_a, "last"_a);
    nb::class_<GatedDelta>(m, "GatedDelta")
        .def(nb::init<const std::string&, float, bool>(), "isa"_a, "scale"_a, "tiled"_a)
        .def("run", &GatedDelta::run, "q"_a, "k"_a, "v"_a, "decay"_a, "beta"_a, "state"_a, "first"_a,
             "last"_a);
    nb::class_<Ssm>(m, "Ssm")
        .def(nb::init<const std::string&, ArrayIn, ArrayIn, ArrayIn, size_t>(), "isa"_a, "a"_a, "d"_a,
             "dt_bias"_a, "n_groups"_a)
        .def("run", &Ssm::run, "x"_a, "b"_a, "c"_a, "dt"_a, "state"_a, "first"_a, "last"_a);
}
