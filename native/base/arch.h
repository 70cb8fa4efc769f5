// SPDX-License-Identifier: MIT
// Instruction sets: those with kernels, those of a CPU, and the choice between them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace edgellm {

// Kernel sets of all architectures, weakest first within each. Every kernel folder has at most one file per
// set, named after it: x86_avx2.cc, arm_neon.cc. scalar.cc runs everywhere.
enum class Isa : uint8_t { kScalar, kAvx2, kAvxVnni, kAvx512Vnni, kNeon, kDotprod, kI8mm };
inline constexpr size_t kIsaCount = 7;

// The set whose kernels stand in where a folder has none of `isa`: the strongest one that runs on every CPU
// with `isa`. AVX512-VNNI does not imply AVX-VNNI. The scalar set is its own fallback.
constexpr Isa fallback_isa(Isa isa) {
    switch (isa) {
        case Isa::kAvxVnni:
        case Isa::kAvx512Vnni:
            return Isa::kAvx2;
        case Isa::kDotprod:
            return Isa::kNeon;
        case Isa::kI8mm:
            return Isa::kDotprod;
        case Isa::kScalar:
        case Isa::kAvx2:
        case Isa::kNeon:
            break;
    }
    return Isa::kScalar;
}

// Features that kernels or their tuning depend on. All are false on a CPU of another architecture.
struct CpuFeatures {
    // x86-64
    bool avx2 = false, fma = false, f16c = false;
    bool avx_vnni = false;
    bool avx512f = false, avx512bw = false, avx512vl = false, avx512dq = false, avx512_vnni = false;
    bool amd = false;  // made by AMD
    // aarch64
    bool neon = false, dotprod = false, i8mm = false;
};

// Reads CPUID and XCR0, the registers that the operating system saves; on Arm the system says.
CpuFeatures detect_cpu();

// Choices that instruction sets leave open and caches and prefetchers of a processor decide.
struct CpuTuning {
    // Cache lines to come are fetched into L2, not L1: Zen 4 keeps more of them under way there.
    bool fetch_into_l2 = false;
    // Linear tiles of many tokens read panels as packed, with scales from tables, not an expanded copy: Zen 4
    // has time for a broadcast from memory with every product of 512 bits, and a store of 512 bits costs it
    // two products.
    bool tables_scales = false;
};
CpuTuning tuning_of(const CpuFeatures& cpu);
// Tuning of this machine's CPU, detected once.
const CpuTuning& cpu_tuning();

const char* isa_name(Isa isa);
// Returns false if `name` is no kernel set of any architecture.
bool isa_from_name(std::string_view name, Isa* isa);

// Kernel sets that this build contains, weakest first: those that at least one kernel folder has a file of.
std::span<const Isa> built_isas();

// Pure functions of the features, so that choices are tested for CPUs the host is not.
bool isa_supported(Isa isa, const CpuFeatures& cpu);
// The strongest of `candidates` (weakest first, the scalar set among them) that the CPU supports.
Isa best_isa(const CpuFeatures& cpu, std::span<const Isa> candidates = built_isas());

// True if products of the set have to be timed beside its fallback's: on some Arm cores those of matrices
// take longer than as many dots. Both sets give the same bits.
bool isa_needs_timing(Isa best);
// The choice between `best` and its fallback by the rates of their products. Timing varies: a tenth decides.
Isa faster_isa(Isa best, double best_rate, double fallback_rate);

// True if the set is built and the CPU supports it.
bool isa_usable(Isa isa, const CpuFeatures& cpu);

}  // namespace edgellm
