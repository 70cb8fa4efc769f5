// SPDX-License-Identifier: MIT
// The extension module edgellm._native_kernels: single kernels on NumPy arrays, for tests and benchmarks.
#include <nanobind/nanobind.h>

#include "base/float_mode.h"
#include "python/kernels/bindings.h"

namespace nb = nanobind;
using namespace edgellm;

NB_MODULE(_native_kernels, m) {
    using namespace nb::literals;
    m.doc() = "Single kernels of edgellm's native engine, for tests and benchmarks.";
    m.def("float_control", &float_control, "The word that controls this thread's floating-point unit.");
    m.def("set_float_control", &set_float_control, "word"_a);
    m.attr("FLUSHING_FLOATS") = kFlushingFloats;
    bind_rows(m);
    bind_attention(m);
    bind_state(m);
    bind_linear(m);
    bind_pre_tokenizer(m);
}
