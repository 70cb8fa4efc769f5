// SPDX-License-Identifier: MIT
// The choice of kernel sets for CPUs that this machine is not. Prints each fault and exits 1.
#include "base/arch.h"

#include <cstdio>
#include <string>
#include <vector>

#include "base/by_isa.h"

namespace edgellm {
namespace {

int failures = 0;

void check(bool condition, const std::string& fault) {
    if (condition) return;
    ++failures;
    std::printf("%s\n", fault.c_str());
}

std::vector<Isa> every_isa() {
    std::vector<Isa> isas;
    for (size_t i = 0; i < kIsaCount; ++i) isas.push_back(static_cast<Isa>(i));
    return isas;
}

struct Cpu {
    const char* name;
    CpuFeatures features;
    Isa best;  // where every set is built
};

constexpr CpuFeatures kHaswell{.avx2 = true, .fma = true, .f16c = true};

std::vector<Cpu> known_cpus() {
    CpuFeatures alder_lake = kHaswell, skylake_x = kHaswell;
    alder_lake.avx_vnni = true;
    skylake_x.avx512f = skylake_x.avx512bw = skylake_x.avx512vl = skylake_x.avx512dq = true;
    CpuFeatures ice_lake = skylake_x, sapphire_rapids;
    ice_lake.avx512_vnni = true;
    sapphire_rapids = ice_lake;
    sapphire_rapids.avx_vnni = true;
    CpuFeatures zen4 = ice_lake, no_fma = kHaswell;
    zen4.amd = true;
    no_fma.fma = false;
    return {
        {"x86-64 of 2003", {}, Isa::kScalar},
        {"AVX2 without FMA", no_fma, Isa::kScalar},
        {"Haswell", kHaswell, Isa::kAvx2},
        {"Alder Lake", alder_lake, Isa::kAvxVnni},
        {"Skylake-X", skylake_x, Isa::kAvx2},
        {"Ice Lake", ice_lake, Isa::kAvx512Vnni},
        {"Sapphire Rapids", sapphire_rapids, Isa::kAvx512Vnni},
        {"Zen 4", zen4, Isa::kAvx512Vnni},
        {"Cortex-A53, A72", {.neon = true}, Isa::kNeon},
        {"Cortex-A76", {.neon = true, .dotprod = true}, Isa::kDotprod},
        {"Cortex-X2, Apple M2", {.neon = true, .dotprod = true, .i8mm = true}, Isa::kI8mm},
        {"dot products without NEON", {.dotprod = true, .i8mm = true}, Isa::kScalar},
        {"I8MM without dot products", {.neon = true, .i8mm = true}, Isa::kNeon},
    };
}

void test_names() {
    for (Isa isa : every_isa()) {
        Isa found{};
        check(isa_from_name(isa_name(isa), &found) && found == isa, std::string("name of ") + isa_name(isa));
    }
    Isa untouched = Isa::kNeon;
    check(!isa_from_name("sse2", &untouched) && untouched == Isa::kNeon, "an unknown name was accepted");
}

void test_choice() {
    const std::vector<Isa> all = every_isa();
    const Isa few[] = {Isa::kScalar, Isa::kAvx2, Isa::kNeon};
    for (const Cpu& cpu : known_cpus()) {
        check(best_isa(cpu.features, all) == cpu.best, std::string("best set of ") + cpu.name);
        Isa built = cpu.best;
        while (built != Isa::kScalar && built != Isa::kAvx2 && built != Isa::kNeon)
            built = fallback_isa(built);
        check(best_isa(cpu.features, few) == built, std::string("best built set of ") + cpu.name);
        for (Isa isa : all) {
            if (!isa_supported(isa, cpu.features)) continue;
            check(isa_supported(fallback_isa(isa), cpu.features),
                  std::string(cpu.name) + " runs " + isa_name(isa) + " but not its fallback");
        }
    }
}

void test_timed_choice() {
    for (Isa isa : every_isa())
        check(isa_needs_timing(isa) == (isa == Isa::kI8mm), std::string("timing of ") + isa_name(isa));
    check(faster_isa(Isa::kI8mm, 100, 60) == Isa::kI8mm, "faster products of matrices are not chosen");
    check(faster_isa(Isa::kI8mm, 100, 105) == Isa::kI8mm, "noise of a timing decides");
    check(faster_isa(Isa::kI8mm, 60, 100) == Isa::kDotprod, "slower products of matrices are chosen");
}

void test_tuning() {
    for (const Cpu& cpu : known_cpus()) {
        const CpuTuning tuning = tuning_of(cpu.features);
        check(tuning.fetch_into_l2 == cpu.features.amd && tuning.tables_scales == cpu.features.amd,
              std::string("tuning of ") + cpu.name);
    }
    const CpuTuning here = tuning_of(detect_cpu());
    check(cpu_tuning().fetch_into_l2 == here.fetch_into_l2, "tuning of this CPU");
}

void test_this_machine() {
    const CpuFeatures cpu = detect_cpu();
    check(built_isas().front() == Isa::kScalar, "the scalar set is not the first built");
    for (Isa isa : every_isa()) {
        bool built = false;
        for (Isa b : built_isas()) built |= b == isa;
        check(isa_usable(isa, cpu) == (built && isa_supported(isa, cpu)),
              std::string("usability of ") + isa_name(isa));
    }
    check(isa_usable(best_isa(cpu), cpu), "the best set is not usable");
#if defined(__x86_64__)
    check(!cpu.neon, "an x86 CPU has NEON");
    for (Isa isa : {Isa::kAvx2, Isa::kAvxVnni, Isa::kAvx512Vnni})
        check(isa_usable(isa, cpu) == isa_supported(isa, cpu), std::string(isa_name(isa)) + " is not built");
#elif defined(__aarch64__)
    check(cpu.neon && !cpu.avx2, "features of another architecture");
#endif
}

void test_by_isa() {
    static constexpr int scalar = 0, avx2 = 1, neon = 2;
    constexpr ByIsa<int> table = {{Isa::kScalar, &scalar}, {Isa::kAvx2, &avx2}, {Isa::kNeon, &neon}};
    const int expected[kIsaCount] = {scalar, avx2, avx2, avx2, neon, neon, neon};
    for (Isa isa : every_isa())
        check(table[isa] == expected[static_cast<size_t>(isa)], std::string("table entry ") + isa_name(isa));
    constexpr ByIsa<int> only_scalar = {{Isa::kScalar, &scalar}};
    for (Isa isa : every_isa())
        check(only_scalar[isa] == scalar, std::string("fallback of ") + isa_name(isa));
}

}  // namespace
}  // namespace edgellm

int main() {
    using namespace edgellm;
    test_names();
    test_choice();
    test_timed_choice();
    test_tuning();
    test_this_machine();
    test_by_isa();
    if (failures == 0) std::printf("instruction sets: all choices as expected\n");
    return failures != 0;
}
