// SPDX-License-Identifier: MIT
// One function per bound part; each is one file of this folder and holds no logic.
#pragma once

#include <nanobind/nanobind.h>

void bind_engine(nanobind::module_& m);
void bind_kernels(nanobind::module_& m);
void bind_sampling(nanobind::module_& m);
