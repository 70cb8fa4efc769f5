// SPDX-License-Identifier: MIT
#include "base/arch.h"

#include <kernel_sets.h>

#include <algorithm>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "base/os/os.h"

namespace edgellm {
namespace {

constexpr const char* kNames[kIsaCount] = {"scalar", "avx2",    "avxvnni", "avx512vnni",
                                           "neon",   "dotprod", "i8mm"};

#define EDGELLM_ISA(set) Isa::k##set,
constexpr Isa kBuilt[] = {EDGELLM_BUILT_SETS(EDGELLM_ISA)};
#undef EDGELLM_ISA

#if defined(__x86_64__)
bool bit(unsigned reg, int i) {
    return (reg >> i) & 1u;
}

// XCR0 without needing -mxsave for this file.
uint64_t read_xcr0() {
    unsigned lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t{hi} << 32) | lo;
}
#endif

}  // namespace

namespace {

CpuFeatures read_features() {
    CpuFeatures f;
#if defined(__x86_64__)
    unsigned a, b, c, d;
    if (!__get_cpuid(0, &a, &b, &c, &d)) return f;
    f.amd = b == signature_AMD_ebx && c == signature_AMD_ecx && d == signature_AMD_edx;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !bit(c, 27)) return f;  // OSXSAVE
    const uint64_t xcr0 = read_xcr0();
    const bool ymm = (xcr0 & 0x6) == 0x6;
    const bool zmm = (xcr0 & 0xe6) == 0xe6;
    f.fma = ymm && bit(c, 12);
    f.f16c = ymm && bit(c, 29);
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return f;
    f.avx2 = ymm && bit(b, 5);
    f.avx512f = zmm && bit(b, 16);
    f.avx512dq = zmm && bit(b, 17);
    f.avx512bw = zmm && bit(b, 30);
    f.avx512vl = zmm && bit(b, 31);
    f.avx512_vnni = zmm && bit(c, 11);
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) f.avx_vnni = ymm && bit(a, 4);
#elif defined(__aarch64__)
    const os::ArmFeatures arm = os::arm_features();
    f.neon = true;  // every system for this architecture requires it
    f.dotprod = arm.dotprod;
    f.i8mm = arm.i8mm;
#endif
    return f;
}

}  // namespace

CpuFeatures detect_cpu() {
    static const CpuFeatures features = read_features();  // CPUID is slow in a virtual machine
    return features;
}

CpuTuning tuning_of(const CpuFeatures& cpu) {
    return {.fetch_into_l2 = cpu.amd, .tables_scales = cpu.amd};
}

const CpuTuning& cpu_tuning() {
    static const CpuTuning tuning = tuning_of(detect_cpu());
    return tuning;
}

const char* isa_name(Isa isa) {
    return kNames[static_cast<size_t>(isa)];
}

bool isa_from_name(std::string_view name, Isa* isa) {
    for (size_t i = 0; i < kIsaCount; ++i) {
        if (name == kNames[i]) {
            *isa = static_cast<Isa>(i);
            return true;
        }
    }
    return false;
}

std::span<const Isa> built_isas() {
    return kBuilt;
}

bool isa_supported(Isa isa, const CpuFeatures& f) {
    const bool avx2 = f.avx2 && f.fma && f.f16c;
    switch (isa) {
        case Isa::kScalar:
            return true;
        case Isa::kAvx2:
            return avx2;
        case Isa::kAvxVnni:
            return avx2 && f.avx_vnni;
        case Isa::kAvx512Vnni:
            return avx2 && f.avx512f && f.avx512bw && f.avx512vl && f.avx512dq && f.avx512_vnni;
        case Isa::kNeon:
            return f.neon;
        case Isa::kDotprod:
            return f.neon && f.dotprod;
        case Isa::kI8mm:
            return f.neon && f.dotprod && f.i8mm;
    }
    return false;
}

Isa best_isa(const CpuFeatures& cpu, std::span<const Isa> candidates) {
    Isa best = Isa::kScalar;
    for (Isa isa : candidates) {
        if (isa_supported(isa, cpu)) best = isa;
    }
    return best;
}

bool isa_needs_timing(Isa best) {
    return best == Isa::kI8mm;
}

Isa faster_isa(Isa best, double best_rate, double fallback_rate) {
    return best_rate < 0.9 * fallback_rate ? fallback_isa(best) : best;
}

bool isa_usable(Isa isa, const CpuFeatures& cpu) {
    return std::ranges::find(kBuilt, isa) != std::end(kBuilt) && isa_supported(isa, cpu);
}

}  // namespace edgellm
