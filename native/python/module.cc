// SPDX-License-Identifier: MIT
// The extension module edgellm._native: one bind function per file of this folder.
#include <nanobind/nanobind.h>

namespace nb = nanobind;

void bind_kernels(nb::module_& m);

NB_MODULE(_native, m) {
    bind_kernels(m);
}
