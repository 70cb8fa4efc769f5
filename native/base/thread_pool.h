// SPDX-License-Identifier: MIT
// A fixed set of threads that run one function together, with barriers inside it.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <thread>

#include "base/cpu_places.h"
#include "base/parking.h"

namespace edgellm {

class ThreadPool {
  public:
    // n_threads >= 1 counts the caller. spin: waiting threads spin for 200 microseconds before they sleep,
    // shorter while barriers take longer; only sensible while there is a CPU for each. Throws
    // std::runtime_error if the system refuses a thread.
    ThreadPool(size_t n_threads, bool spin, CoreKinds kinds = {});
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    size_t size() const { return n_threads_; }
    const CoreKinds& kinds() const { return places_.kinds(); }

    // Threads of the run under way, or else of the next one: [0, active()).
    size_t active() const { return active_; }
    // Between runs: so many threads take part in the next ones, the others sleep. 1 <= n <= size().
    void set_active(size_t n);

    // Runs fn(thread index) on every active thread, the caller's as index 0, and returns when all are done.
    // They compute in the engine's floating-point mode. Throws std::runtime_error in a forked child, which
    // has none of the threads. If fn throws on a thread, the others leave fn at their next barrier, and run
    // throws the first thread's exception once all have left.
    void run(const std::function<void(size_t)>& fn);

    // Called by every active thread inside run: nobody leaves before all have come. All writes before it are
    // seen after it. Throws if a thread has left fn by an exception: fn must let that through.
    void barrier();

    // Time that all threads together have slept at barriers, since the pool was made.
    std::chrono::nanoseconds slept() const;

  private:
    struct alignas(64) Worker {
        SleepWord start;  // advanced to start a run
        std::atomic<int64_t> slept_ns{0};
        std::thread thread;  // of all but the caller's
    };

    // Thrown by a barrier at which a thread has given up.
    struct Abandoned {};
    static constexpr uint32_t kNotBroken = 1;  // values of phase_ are even

    void work(size_t index);
    void stop();
    void call(const std::function<void(size_t)>& fn, size_t index);
    // Waits for all active threads; false if one of them came because it gave up.
    bool meet();
    // Spins until `word` differs from `old`, at most about `time`; false: it does not yet.
    static bool spin(const SleepWord& word, uint32_t old, std::chrono::nanoseconds time);
    void sleep_at_barrier(uint32_t phase, size_t n_threads);
    bool forked() const;

    size_t n_threads_;
    size_t active_;
    std::chrono::nanoseconds most_spinning_;
    int64_t process_;
    std::atomic<std::chrono::nanoseconds> spinning_;  // of a thread that waits at a barrier
    bool stopping_ = false;
    CpuPlaces places_;
    const std::function<void(size_t)>* fn_ = nullptr;
    std::unique_ptr<Worker[]> workers_;
    alignas(64) std::atomic<uint32_t> arrived_{0};
    alignas(64) SleepWord phase_;  // advanced when a barrier opens
    // Value of phase_ while a thread of this run gave up: the barrier that ends it is where all learn of it.
    std::atomic<uint32_t> broken_{kNotBroken};
    std::atomic<bool> has_error_{false};
    std::exception_ptr error_;  // of the thread that was first to give up
};

}  // namespace edgellm
