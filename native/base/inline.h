// SPDX-License-Identifier: MIT
#pragma once

// Also for functions of headers that are included by files of several instruction sets: no copy of theirs is
// left that the linker could choose for another set.
#define EDGELLM_INLINE inline __attribute__((always_inline))
