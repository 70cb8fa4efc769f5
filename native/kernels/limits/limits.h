// SPDX-License-Identifier: MIT
// Limits of a machine: loops that only read, and loops that only multiply and add in registers. Kernels are
// judged by their share of these.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/arch.h"

namespace edgellm {

struct LimitKernels {
    // Reads all of data (64-byte aligned, n_bytes a multiple of 256); returns a value that depends on it.
    uint64_t (*read)(const uint8_t* data, size_t n_bytes);
    // Products of 8-bit values, summed as the set's linear kernels sum them. Returns the multiply-adds done.
    size_t (*int8)(size_t n_rounds);
    // Products of 32-bit floats. Returns the multiply-adds done.
    size_t (*float32)(size_t n_rounds);
};

const LimitKernels& limit_kernels(Isa isa);

struct Limits {
    double read_bytes_per_s, int8_macs_per_s, float_macs_per_s;
};

// The kernel set for this machine: the strongest usable one, or its fallback if isa_needs_timing and the
// loops of their products say so. Timed on the calling thread's core, once, in about a millisecond.
Isa fastest_isa();

// A buffer size that no cache holds (4 x the last level, within reason).
size_t beyond_caches();

// Runs each loop on n_threads >= 1 threads at once for about `seconds`, and takes the best of several runs.
// Reads a buffer of n_bytes; throws std::bad_alloc if it cannot be had.
Limits measure_limits(Isa isa, size_t n_threads, double seconds, size_t n_bytes);

}  // namespace edgellm
