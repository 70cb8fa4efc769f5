// SPDX-License-Identifier: MIT
// The extension module edgellm._native_kernels: single kernels on NumPy arrays, for tests and benchmarks.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "base/arch.h"
#include "base/float_mode.h"
#include "python/kernels/bindings.h"

namespace nb = nanobind;
using namespace edgellm;

namespace {

// The choice on a CPU with just these features.
const char* best_isa_for(bool avx2, bool fma, bool f16c, bool avx_vnni, bool avx512, bool avx512_vnni) {
    CpuFeatures f;
    f.avx2 = avx2;
    f.fma = fma;
    f.f16c = f16c;
    f.avx_vnni = avx_vnni;
    f.avx512f = f.avx512bw = f.avx512vl = f.avx512dq = avx512;
    f.avx512_vnni = avx512_vnni;
    return isa_name(best_isa(f));
}

}  // namespace

NB_MODULE(_native_kernels, m) {
    using namespace nb::literals;
    m.doc() = "Single kernels of edgellm's native engine, for tests and benchmarks.";
    m.def("best_isa_for", &best_isa_for, nb::kw_only(), "avx2"_a = false, "fma"_a = false, "f16c"_a = false,
          "avx_vnni"_a = false, "avx512"_a = false, "avx512_vnni"_a = false,
          "Name of the kernel set chosen on a CPU with just these features.");
    m.def("float_control", &float_control, "The word that controls this thread's floating-point unit.");
    m.def("set_float_control", &set_float_control, "word"_a);
    m.attr("FLUSHING_FLOATS") = kFlushingFloats;
    bind_rows(m);
    bind_attention(m);
    bind_state(m);
    bind_linear(m);
}
