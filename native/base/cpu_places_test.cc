// SPDX-License-Identifier: MIT
// Threads of a pool that find themselves on one CPU part, and may run where they might before. Prints what
// failed and exits 1.
#include "base/cpu_places.h"

#include <cstdio>

#if defined(__linux__)
#include <sched.h>

#include <thread>

namespace {

// A thread is put where the other one is; whether it then parted, with its set of CPUs as it was.
bool parts(edgellm::CpuPlaces* places, int cpu, const cpu_set_t& allowed) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof(one), &one);
    places->note(0);
    bool parted = false, same_set = false;
    std::thread other([&] {
        sched_setaffinity(0, sizeof(allowed), &allowed);
        // The CPU of its first wake-up does not count: it is moved to the other thread's CPU.
        sched_setaffinity(0, sizeof(one), &one);
        sched_setaffinity(0, sizeof(allowed), &allowed);
        places->part(1);
        parted = sched_getcpu() != cpu;
        cpu_set_t now;
        same_set = sched_getaffinity(0, sizeof(now), &now) == 0 && CPU_EQUAL(&now, &allowed);
    });
    other.join();
    sched_setaffinity(0, sizeof(allowed), &allowed);
    if (!same_set) std::printf("a thread may no longer run on the CPUs on which it might\n");
    return parted && same_set;
}

}  // namespace

int main() {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0 || CPU_COUNT(&allowed) < 2) {
        std::printf("needs two CPUs\n");
        return 0;
    }
    edgellm::CpuPlaces places(2);
    // The kernel may send it back at once, or say that it has waited too long: not every time.
    for (int i = 0; i < 20; ++i) {
        if (parts(&places, sched_getcpu(), allowed)) return 0;
    }
    std::printf("a thread stays on the CPU of another one\n");
    return 1;
}

#else

int main() {
    return 0;
}

#endif
