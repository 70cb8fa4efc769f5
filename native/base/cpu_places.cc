// SPDX-License-Identifier: MIT
#include "base/cpu_places.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/os/os.h"

namespace edgellm {
namespace {

constexpr int64_t kLeastPatience = 250'000'000;
constexpr int64_t kMostPatience = 8'000'000'000;
// Of the time since a move that a thread waited for its CPU: more, and the move was for nothing.
constexpr double kMostWaiting = 0.25;

int64_t now_ns() {
    return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

}  // namespace

CpuPlaces::CpuPlaces(size_t n_threads, CoreKinds kinds)
    : n_(n_threads), kinds_(std::move(kinds)), places_(std::make_unique<Place[]>(n_threads)) {
    for (size_t i = 0; i < n_; ++i) places_[i].taken.reserve(n_ + kinds_.n_cpus());
}

void CpuPlaces::note(size_t index) {
    places_[index].cpu.store(os::current_cpu(), std::memory_order_relaxed);
}

bool CpuPlaces::shared(size_t index, int cpu) const {
    for (size_t i = 0; i < n_; ++i) {
        if (i != index && places_[i].cpu.load(std::memory_order_relaxed) == cpu) return true;
    }
    return false;
}

void CpuPlaces::part(size_t index) {
    note(index);
    Place& own = places_[index];
    const int cpu = own.cpu.load(std::memory_order_relaxed);
    if (cpu < 0) return;
    const bool is_shared = shared(index, cpu);
    if (!is_shared && !kinds_.is_slow(cpu)) return;
    const int64_t now = now_ns();
    if (now < own.not_before) return;
    const int64_t waited = os::waited_ns();
    if (own.moved > 0) {
        const int64_t moved = std::exchange(own.moved, 0);
        if (static_cast<double>(waited - own.waited) > kMostWaiting * static_cast<double>(now - moved)) {
            own.patience = std::clamp(2 * own.patience, kLeastPatience, kMostPatience);
            own.not_before = now + own.patience;
            return;
        }
        own.patience = 0;
    }
    if (waited < 0) return;
    own.taken.assign(1, cpu);
    for (size_t i = 0; i < n_; ++i) {
        if (i != index) own.taken.push_back(places_[i].cpu.load(std::memory_order_relaxed));
    }
    kinds_.append_slower(cpu, !is_shared, &own.taken);
    if (!os::move_off(own.taken)) {
        // Looking costs system calls: a thread on a slow CPU of its own looks now and then.
        if (!is_shared) own.not_before = now + kLeastPatience;
        return;
    }
    note(index);
    own.moved = now;
    own.waited = waited;
}

}  // namespace edgellm
