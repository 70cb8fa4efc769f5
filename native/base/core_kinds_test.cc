// SPDX-License-Identifier: MIT
// Kinds of cores of processors that are made up. Prints what failed and exits 1.
#include "base/core_kinds.h"

#include <algorithm>
#include <cstdio>

using edgellm::CoreKinds;

namespace {

int n_failed = 0;

void expect(bool ok, const char* what) {
    if (ok) return;
    std::printf("%s\n", what);
    ++n_failed;
}

std::vector<int> slower(const CoreKinds& kinds, int cpu, bool as_slow) {
    std::vector<int> cpus;
    kinds.append_slower(cpu, as_slow, &cpus);
    std::ranges::sort(cpus);
    return cpus;
}

void cores_alike() {
    const CoreKinds kinds[] = {CoreKinds(), CoreKinds({{0, 1000}, {1, 1000}}),
                               CoreKinds({{0, 5700}, {1, 5500}}), CoreKinds({{0, 0}, {1, 800}})};
    for (const CoreKinds& k : kinds) {
        expect(!k.uneven() && k.n_fast() == 0, "CPUs that are alike, or unknown, count as different");
        expect(!k.is_slow(0) && !k.is_slow(1) && slower(k, 0, false).empty(), "a CPU among its like is slow");
    }
}

// One fast core, three middle ones and four slow ones, as Linux numbers them.
void a_phone() {
    std::vector<edgellm::CpuSpeed> cpus;
    for (int cpu = 0; cpu < 8; ++cpu) cpus.push_back({cpu, cpu < 4 ? 300.0f : cpu < 7 ? 800.0f : 1024.0f});
    const CoreKinds kinds(cpus);
    expect(kinds.uneven() && kinds.n_cpus() == 8, "a phone's cores are of one kind");
    expect(kinds.n_fast() == 4, "middle cores are not among the fast ones");
    for (int cpu = 0; cpu < 8; ++cpu) expect(kinds.is_slow(cpu) == (cpu < 4), "other cores are slow");
    expect(slower(kinds, 5, false) == std::vector{0, 1, 2, 3}, "other cores are slower than a middle one");
    expect(slower(kinds, 7, false) == std::vector{0, 1, 2, 3, 4, 5, 6}, "others are slower than the fastest");
    expect(slower(kinds, 0, false).empty(), "some core is slower than a slow one");
    expect(slower(kinds, 0, true) == std::vector{0, 1, 2, 3}, "other cores are as slow as a slow one");
    expect(!kinds.is_slow(9), "a CPU that nothing is known of is slow");
}

// In a set of CPUs without the fast ones, the fastest there is counts.
void slow_cores_alone() {
    const CoreKinds kinds({{0, 300}, {1, 300}});
    expect(!kinds.uneven() && !kinds.is_slow(0), "slow cores by themselves are slow");
}

}  // namespace

int main() {
    cores_alike();
    a_phone();
    slow_cores_alone();
    return n_failed == 0 ? 0 : 1;
}
