// SPDX-License-Identifier: MIT
#include "base/arch.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace edgellm {
namespace {

constexpr Isa kIsas[] = {Isa::kScalar, Isa::kAvx2, Isa::kAvxVnni, Isa::kAvx512Vnni};
constexpr const char* kNames[] = {"scalar", "avx2", "avxvnni", "avx512vnni"};

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

CpuFeatures detect_cpu() {
    CpuFeatures f;
#if defined(__x86_64__)
    unsigned a, b, c, d;
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
#endif
    return f;
}

bool is_amd() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    return __builtin_cpu_is("amd");
#else
    return false;
#endif
}

std::span<const Isa> all_isas() {
    return kIsas;
}

const char* isa_name(Isa isa) {
    return kNames[static_cast<int>(isa)];
}

bool isa_from_name(std::string_view name, Isa* isa) {
    for (Isa i : kIsas) {
        if (name == isa_name(i)) {
            *isa = i;
            return true;
        }
    }
    return false;
}

bool isa_usable(Isa isa, const CpuFeatures& f) {
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
    }
    return false;
}

Isa best_isa(const CpuFeatures& cpu) {
    Isa best = Isa::kScalar;
    for (Isa i : kIsas) {
        if (isa_usable(i, cpu)) best = i;
    }
    return best;
}

}  // namespace edgellm
