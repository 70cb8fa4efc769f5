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

// Arrays (n_tokens, width).
TokenInput rows_in(const ArrayIn& x) {
    return {x.data(), x.shape(1)};
}
TokenOutput rows_out(ArrayOut& y) {
    return {y.data(), y.shape(1)};
}

ResultAndState short_conv(const std::string& isa, ArrayIn x, ArrayIn weight, std::optional<ArrayIn> bias,
                          bool silu, ArrayIn state, size_t first, size_t last) {
    require(x.ndim() == 2 && weight.ndim() == 2 && weight.shape(0) == x.shape(1),
            "x (n, width), weight (width, taps)");
    const size_t width = x.shape(1), taps = weight.shape(1);
    require(state.size() == (taps - 1) * width && first <= last && last <= width,
            "state is (taps - 1, width)");
    ArrayOut y = make_array({x.shape(0), width}), next = copy_of(state);
    state_kernels(usable_isa(isa))
        .short_conv({.x = rows_in(x),
                     .y = rows_out(y),
                     .n_tokens = x.shape(0),
                     .width = width,
                     .taps = taps,
                     .weight = weight.data(),
                     .bias = data_or_null(bias),
                     .silu = silu,
                     .state = next.data()},
                    first, last);
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
        kernels_.gated_delta({.q = rows_in(q),
                              .k = rows_in(k),
                              .v = rows_in(v),
                              .decay = rows_in(decay),
                              .beta = rows_in(beta),
                              .y = rows_out(y),
                              .n_tokens = n,
                              .n_heads = n_heads,
                              .n_key_heads = q.shape(1) / key_dim,
                              .key_dim = key_dim,
                              .value_dim = value_dim,
                              .scale = scale_,
                              .tiled = tiled_,
                              .state = next.data()},
                             first, last);
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
        kernels_.ssm({.x = rows_in(x),
                      .b = rows_in(b),
                      .c = rows_in(c),
                      .dt = rows_in(dt),
                      .a = a_.data(),
                      .d = d_.data(),
                      .dt_bias = dt_bias_.data(),
                      .y = rows_out(y),
                      .n_tokens = n,
                      .n_heads = n_heads,
                      .head_dim = head_dim,
                      .n_groups = n_groups_,
                      .d_state = d_state,
                      .state = next.data()},
                     first, last);
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
