// SPDX-License-Identifier: MIT
// The extension module edgellm._native: one bind function per file of this folder. Folder kernels/ is the
// module of tests and benchmarks.
#include <nanobind/nanobind.h>

#include "python/bindings.h"

namespace nb = nanobind;

NB_MODULE(_native, m) {
    m.doc() = "The native engine of edgellm.";
    // A program may end while a model is loaded: that is no leak to report.
    nb::set_leak_warnings(false);
    bind_calibrate(m);
    bind_engine(m);
    bind_machine(m);
    bind_sampling(m);
    bind_quantize(m);
    bind_text(m);
    bind_encoders(m);
}
