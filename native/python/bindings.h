// SPDX-License-Identifier: MIT
// One function per bound part; each is one file of this folder and holds no logic.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "base/arch.h"

void bind_engine(nanobind::module_& m);
void bind_kernels(nanobind::module_& m);
void bind_limits(nanobind::module_& m);
void bind_quantize(nanobind::module_& m);
void bind_sampling(nanobind::module_& m);
void bind_text(nanobind::module_& m);

// Parts of the submodule `kernels`.
void bind_linear(nanobind::module_& kernels);

// The kernel set of that name; std::invalid_argument if there is none or this CPU lacks it.
edgellm::Isa usable_isa(const std::string& name);
