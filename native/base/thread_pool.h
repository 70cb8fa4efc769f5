// SPDX-License-Identifier: MIT
// A fixed set of threads that run one function together, with barriers inside it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "base/cpu_places.h"

namespace edgellm {

class ThreadPool {
  public:
    // n_threads >= 1 counts the caller. spin: waiting threads spin some 50 microseconds before they sleep,
    // fewer while barriers take longer; only sensible while there is a CPU for each.
    ThreadPool(size_t n_threads, bool spin);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    size_t size() const { return n_threads_; }

    // Runs fn(thread index) on every thread, the caller's as index 0, and returns when all are done.
    void run(const std::function<void(size_t)>& fn);

    // Called by every thread inside run: nobody leaves before all have come. All writes before it are seen
    // after it.
    void barrier();

  private:
    void worker(size_t index);
    // Until `word` differs from `old`: spins n times (false: it does not yet); sleeps.
    bool spin(const std::atomic<uint32_t>& word, uint32_t old, int n) const;
    void sleep(const std::atomic<uint32_t>& word, uint32_t old) const;

    size_t n_threads_;
    int most_spins_;
    std::atomic<int> spins_;  // of a thread that waits at a barrier
    CpuPlaces places_;
    const std::function<void(size_t)>* fn_ = nullptr;
    alignas(64) std::atomic<uint32_t> generation_{0};  // bumped to start a run
    alignas(64) std::atomic<uint32_t> arrived_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};  // bumped when a barrier opens
    std::atomic<bool> stop_{false};
    std::vector<std::thread> workers_;
};

// CPUs this process may run on (the scheduler's affinity mask), at least 1.
size_t allowed_cpus();

}  // namespace edgellm
