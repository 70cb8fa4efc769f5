// SPDX-License-Identifier: MIT
// One function per kernel folder; each is one file here.
#pragma once

#include <nanobind/nanobind.h>

void bind_attention(nanobind::module_& m);
void bind_linear(nanobind::module_& m);
void bind_pre_tokenizer(nanobind::module_& m);
void bind_rows(nanobind::module_& m);
void bind_state(nanobind::module_& m);
