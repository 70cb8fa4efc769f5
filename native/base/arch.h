// SPDX-License-Identifier: MIT
// What this CPU can do, and which set of kernels runs on it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace edgellm {

// Kernel sets, weakest first. One kernel folder holds at most one file per set.
enum class Isa : uint8_t { kScalar, kAvx2, kAvxVnni, kAvx512Vnni };

struct CpuFeatures {
    bool avx2 = false, fma = false, f16c = false;
    bool avx_vnni = false;
    bool avx512f = false, avx512bw = false, avx512vl = false, avx512dq = false, avx512_vnni = false;
};

// Reads CPUID and the register state the operating system saves (XCR0).
CpuFeatures detect_cpu();

// Whether AMD made this processor: its prefetchers are not Intel's.
bool is_amd();

// All kernel sets, weakest first.
std::span<const Isa> all_isas();
const char* isa_name(Isa isa);
// Returns false if `name` is no kernel set.
bool isa_from_name(std::string_view name, Isa* isa);

// Pure functions of the features, so that choices are tested for CPUs the host is not.
bool isa_usable(Isa isa, const CpuFeatures& cpu);
Isa best_isa(const CpuFeatures& cpu);

}  // namespace edgellm
