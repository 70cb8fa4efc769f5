// SPDX-License-Identifier: MIT
#include "base/thread_pool.h"

#include <algorithm>

#if defined(__linux__)
#include <sched.h>
#endif

namespace edgellm {
namespace {

// About 50 microseconds of pauses: longer than any wait inside a balanced step, short enough to cost nothing
// when idle.
constexpr int kSpins = 4000;
constexpr int kLeastSpins = 200;

thread_local size_t own_index = 0;  // in the pool whose work this thread does

inline void pause_cpu() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

}  // namespace

size_t allowed_cpus() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return static_cast<size_t>(CPU_COUNT(&set));
#endif
    const unsigned n = std::thread::hardware_concurrency();
    return n == 0 ? 1 : n;
}

ThreadPool::ThreadPool(size_t n_threads, bool spin)
    : n_threads_(n_threads), most_spins_(spin ? kSpins : 0), spins_(most_spins_), places_(n_threads) {
    for (size_t i = 1; i < n_threads; ++i) workers_.emplace_back([this, i] { worker(i); });
}

ThreadPool::~ThreadPool() {
    stop_.store(true, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    for (auto& t : workers_) t.join();
}

bool ThreadPool::spin(const std::atomic<uint32_t>& word, uint32_t old, int n) const {
    for (int i = 0; i < n; ++i) {
        if (word.load(std::memory_order_acquire) != old) return true;
        pause_cpu();
    }
    return false;
}

void ThreadPool::sleep(const std::atomic<uint32_t>& word, uint32_t old) const {
    while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

void ThreadPool::barrier() {
    if (n_threads_ == 1) return;
    const uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == n_threads_) {
        arrived_.store(0, std::memory_order_relaxed);
        phase_.store(phase + 1, std::memory_order_release);
        phase_.notify_all();
    } else {
        // Who outlasts its spinning waits for a thread that has lost its CPU, perhaps to this one: spin less
        // next time.
        const int n = spins_.load(std::memory_order_relaxed);
        const bool opened = spin(phase_, phase, n);
        const int next = opened ? std::min(2 * n, kSpins) : std::max(n / 2, kLeastSpins);
        if (n > 0 && next != n) spins_.store(next, std::memory_order_relaxed);
        if (!opened) {
            sleep(phase_, phase);
            if (most_spins_ > 0) places_.part(own_index);
        }
    }
}

void ThreadPool::run(const std::function<void(size_t)>& fn) {
    if (n_threads_ == 1) {
        fn(0);
        return;
    }
    fn_ = &fn;
    own_index = 0;
    places_.note(0);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    fn(0);
    barrier();
}

void ThreadPool::worker(size_t index) {
    uint32_t seen = 0;
    own_index = index;
    for (;;) {
        if (!spin(generation_, seen, most_spins_)) sleep(generation_, seen);
        if (stop_.load(std::memory_order_relaxed)) return;
        ++seen;
        if (most_spins_ > 0) places_.part(index);
        (*fn_)(index);
        barrier();
    }
}

}  // namespace edgellm
