// SPDX-License-Identifier: MIT
// Row kernels: norms, rotations, activations on one row.
#include "kernels/rows/rows.h"

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

using Angles = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

NormKind norm_kind(const std::string& name) {
    return choice<NormKind>(name, {"rms", "layer", "l2"});
}
RopeKind rope_kind(const std::string& name) {
    return choice<RopeKind>(name, {"neox", "interleaved"});
}
Activation activation_kind(const std::string& name) {
    Activation kind;
    require(activation_from_name(name, &kind), "unknown activation");
    return kind;
}

ArrayOut norm(const std::string& isa, const std::string& kind, ArrayIn x, size_t groups, float eps,
              std::optional<ArrayIn> weight, std::optional<ArrayIn> bias) {
    require(groups > 0 && x.size() % groups == 0, "groups must divide the row");
    const size_t width = x.size() / groups;
    size_t n = 0;
    for (const auto* w : {&weight, &bias}) {
        if (!*w) continue;
        require((*w)->size() == x.size() || (*w)->size() == width,
                "weight and bias are as wide as the row or a group");
        require(n == 0 || n == (*w)->size(), "weight and bias have one width");
        n = (*w)->size();
    }
    ArrayOut y = copy_of(x);
    row_kernels(usable_isa(isa))
        .norm({norm_kind(kind), groups, eps, data_or_null(weight), data_or_null(bias), n == x.size()},
              x.data(), x.size(), y.data());
    return y;
}

std::pair<ArrayOut, ArrayOut> rope_angles(const std::string& isa, Angles inv_freq, float mscale,
                                          uint32_t position) {
    ArrayOut cos = make_array({inv_freq.size()}), sin = make_array({inv_freq.size()});
    row_kernels(usable_isa(isa))
        .rope_angles(inv_freq.data(), inv_freq.size(), mscale, position, cos.data(), sin.data());
    return {cos, sin};
}

ArrayOut rope(const std::string& isa, const std::string& kind, ArrayIn x, size_t groups, ArrayIn cos,
              ArrayIn sin) {
    require(groups > 0 && x.size() % groups == 0, "groups must divide the row");
    const size_t head_dim = x.size() / groups;
    require(cos.size() == sin.size() && 2 * cos.size() <= head_dim, "2 n_pairs must fit a head");
    ArrayOut y = copy_of(x);
    row_kernels(usable_isa(isa))
        .rope(rope_kind(kind), y.data(), groups, head_dim, cos.data(), sin.data(), cos.size());
    return y;
}

ArrayOut glu(const std::string& isa, const std::string& fn, ArrayIn gate, ArrayIn up, float limit,
             float alpha) {
    require(gate.size() == up.size(), "gate and up have one size");
    ArrayOut y = copy_of(gate);
    row_kernels(usable_isa(isa))
        .glu(activation_kind(fn), gate.data(), up.data(), gate.size(), limit, alpha, y.data());
    return y;
}

ArrayOut activation(const std::string& isa, const std::string& fn, ArrayIn x, float alpha_p, float alpha_n,
                    float beta) {
    ArrayOut y = copy_of(x);
    row_kernels(usable_isa(isa))
        .activation({activation_kind(fn), alpha_p, alpha_n, beta}, x.data(), x.size(), y.data());
    return y;
}

ArrayOut softcap(const std::string& isa, ArrayIn x, float cap) {
    ArrayOut y = copy_of(x);
    row_kernels(usable_isa(isa)).softcap(x.data(), x.size(), cap, y.data());
    return y;
}

ArrayOut add(const std::string& isa, ArrayIn a, ArrayIn b) {
    require(a.size() == b.size(), "a and b have one size");
    ArrayOut y = copy_of(a);
    row_kernels(usable_isa(isa)).add(a.data(), b.data(), a.size(), y.data());
    return y;
}

ArrayOut mul(const std::string& isa, ArrayIn a, ArrayIn b) {
    require(a.size() == b.size(), "a and b have one size");
    ArrayOut y = copy_of(a);
    row_kernels(usable_isa(isa)).mul(a.data(), b.data(), a.size(), y.data());
    return y;
}

ArrayOut affine(const std::string& isa, ArrayIn x, float factor, std::optional<ArrayIn> weight,
                std::optional<ArrayIn> bias) {
    for (const auto* w : {&weight, &bias})
        require(!*w || (*w)->size() == 1 || (*w)->size() == x.size(),
                "weight and bias have 1 value or the row's");
    ArrayOut y = copy_of(x);
    row_kernels(usable_isa(isa))
        .affine({factor, data_or_null(weight), weight && weight->size() == 1, data_or_null(bias),
                 bias && bias->size() == 1},
                x.data(), x.size(), y.data());
    return y;
}

ArrayOut softmax(const std::string& isa, ArrayIn x) {
    ArrayOut y = copy_of(x);
    row_kernels(usable_isa(isa)).softmax(y.data(), y.size());
    return y;
}

}  // namespace

void bind_rows(nb::module_& m) {
    using namespace nb::literals;
    m.def("norm", &norm, "isa"_a, "kind"_a, "x"_a, "groups"_a, "eps"_a, "weight"_a.none() = nb::none(),
          "bias"_a.none() = nb::none());
    m.def("rope_angles", &rope_angles, "isa"_a, "inv_freq"_a, "mscale"_a, "position"_a);
    m.def("rope", &rope, "isa"_a, "kind"_a, "x"_a, "groups"_a, "cos"_a, "sin"_a);
    m.def("glu", &glu, "isa"_a, "fn"_a, "gate"_a, "up"_a, "limit"_a = 0.0f, "alpha"_a = 1.0f);
    m.def("activation", &activation, "isa"_a, "fn"_a, "x"_a, "alpha_p"_a = 0.0f, "alpha_n"_a = 0.0f,
          "beta"_a = 0.0f);
    m.def("softcap", &softcap, "isa"_a, "x"_a, "cap"_a);
    m.def("add", &add, "isa"_a, "a"_a, "b"_a);
    m.def("mul", &mul, "isa"_a, "a"_a, "b"_a);
    m.def("affine", &affine, "isa"_a, "x"_a, "factor"_a, "weight"_a.none() = nb::none(),
          "bias"_a.none() = nb::none());
    m.def("softmax", &softmax, "isa"_a, "x"_a);
}
