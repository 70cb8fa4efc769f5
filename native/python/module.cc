// SPDX-License-Identifier: MIT
// The extension module edgellm._native: one bind function per file of this folder.
#include <nanobind/nanobind.h>

#include "python/bindings.h"

NB_MODULE(_native, m) {
    m.doc() = "The native engine of edgellm.";
    bind_engine(m);
    bind_kernels(m);
    bind_limits(m);
    bind_sampling(m);
    bind_quantize(m);
}
