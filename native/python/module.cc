// SPDX-License-Identifier: MIT
// The extension module edgellm._native: one bind function per file of this folder.
#include <nanobind/nanobind.h>

#include "python/bindings.h"

namespace nb = nanobind;

NB_MODULE(_native, m) {
    m.doc() = "The native engine of edgellm.";
    // A program may end while a model is loaded: nothing to report to whoever reads its output.
    nb::set_leak_warnings(false);
    bind_engine(m);
    bind_kernels(m);
    bind_limits(m);
    bind_sampling(m);
    bind_quantize(m);
    bind_text(m);
}
