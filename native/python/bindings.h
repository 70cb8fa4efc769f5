// SPDX-License-Identifier: MIT
// One function per bound part; each is one file of this folder.
#pragma once

#include <nanobind/nanobind.h>

void bind_calibrate(nanobind::module_& m);
void bind_encoders(nanobind::module_& m);
void bind_engine(nanobind::module_& m);
void bind_machine(nanobind::module_& m);
void bind_quantize(nanobind::module_& m);
void bind_sampling(nanobind::module_& m);
void bind_text(nanobind::module_& m);
