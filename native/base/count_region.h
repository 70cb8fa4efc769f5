// SPDX-License-Identifier: MIT
// Marks of the part of a program whose instructions bench/arm_work.py counts under emulation. Include it in
// one file of a program.
#pragma once

// Calls to them stay, because they may do anything.
extern "C" {
[[gnu::noinline, gnu::used]] void edgellm_region_begin() {
    __asm__ volatile("" ::: "memory");
}
[[gnu::noinline, gnu::used]] void edgellm_region_end() {
    __asm__ volatile("nop" ::: "memory");
}
}
