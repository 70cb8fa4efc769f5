// SPDX-License-Identifier: MIT
#include "base/cpu_places.h"

#if defined(__linux__)
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <utility>
#endif

namespace edgellm {

CpuPlaces::CpuPlaces(size_t n_threads) : n_(n_threads), places_(std::make_unique<Place[]>(n_threads)) {}

#if defined(__linux__)

namespace {

constexpr int64_t kLeastPatience = 250'000'000;
constexpr int64_t kMostPatience = 8'000'000'000;
// Of the time since a move that a thread waited for its CPU: more, and the move was for nothing.
constexpr double kMostWaiting = 0.25;

int64_t now_ns() {
    return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

// How long this thread has been ready to run and did not, in nanoseconds; -1 where the kernel does not say.
int64_t waited_ns() {
    std::FILE* file = std::fopen("/proc/thread-self/schedstat", "re");
    if (file == nullptr) return -1;
    long long ran, waited;
    const int n = std::fscanf(file, "%lld %lld", &ran, &waited);
    std::fclose(file);
    return n == 2 ? waited : -1;
}

}  // namespace

void CpuPlaces::note(size_t index) {
    places_[index].cpu.store(sched_getcpu(), std::memory_order_relaxed);
}

void CpuPlaces::part(size_t index) {
    note(index);
    Place& own = places_[index];
    cpu_set_t others;
    CPU_ZERO(&others);
    for (size_t i = 0; i < n_; ++i) {
        const int cpu = places_[i].cpu.load(std::memory_order_relaxed);
        if (i != index && cpu >= 0 && cpu < CPU_SETSIZE) CPU_SET(cpu, &others);
    }
    const int cpu = own.cpu.load(std::memory_order_relaxed);
    if (cpu < 0 || cpu >= CPU_SETSIZE || !CPU_ISSET(cpu, &others)) return;
    const int64_t now = now_ns();
    if (now < own.not_before) return;
    const int64_t waited = waited_ns();
    if (own.moved > 0) {
        const int64_t moved = std::exchange(own.moved, 0);
        if (static_cast<double>(waited - own.waited) > kMostWaiting * static_cast<double>(now - moved)) {
            own.patience = std::clamp(2 * own.patience, kLeastPatience, kMostPatience);
            own.not_before = now + own.patience;
            return;
        }
        own.patience = 0;
    }
    cpu_set_t allowed, free;
    if (waited < 0 || sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
    free = allowed;
    for (int c = 0; c < CPU_SETSIZE; ++c) {
        if (CPU_ISSET(c, &others)) CPU_CLR(c, &free);
    }
    if (CPU_COUNT(&free) == 0 || sched_setaffinity(0, sizeof(free), &free) != 0) return;
    note(index);
    sched_setaffinity(0, sizeof(allowed), &allowed);
    own.moved = now;
    own.waited = waited;
}

#else

void CpuPlaces::note(size_t) {}
void CpuPlaces::part(size_t) {}

#endif

}  // namespace edgellm
