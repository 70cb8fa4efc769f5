// SPDX-License-Identifier: MIT
#include "base/thread_pool.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "base/float_mode.h"
#include "base/os/os.h"

namespace edgellm {
namespace {

using std::chrono::nanoseconds;

// Longer than any wait inside a balanced step, short enough to cost nothing when idle. With 50 microseconds
// a virtual machine lost 5 to 10 % of a prompt's speed: waking a thread takes as long there.
constexpr nanoseconds kSpinning = std::chrono::microseconds(200);
constexpr nanoseconds kLeastSpinning = kSpinning / 20;
// A pause takes 4 to 50 ns, whatever the processor and its clock: a look at the time for so many of them.
constexpr int kPauses = 16;
// Between runs a thread looks more and more seldom whether it missed being woken. Who waits for it at a
// barrier wakes it again.
constexpr ParkTime kLongestIdle = std::chrono::seconds(1);

thread_local size_t own_index = 0;  // in the pool whose work this thread does

inline void pause_cpu() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");  // some 10 ns; yield takes no time on most cores
#endif
}

}  // namespace

ThreadPool::ThreadPool(size_t n_threads, bool spin, CoreKinds kinds)
    : n_threads_(n_threads),
      active_(n_threads),
      most_spinning_(spin ? kSpinning : nanoseconds(0)),
      process_(os::process_id()),
      spinning_(most_spinning_),
      places_(n_threads, std::move(kinds)),
      workers_(std::make_unique<Worker[]>(n_threads)) {
    for (size_t i = 1; i < n_threads; ++i) {
        try {
            workers_[i].thread = std::thread([this, i] { work(i); });
        } catch (const std::system_error& error) {
            n_threads_ = i;
            stop();
            throw std::runtime_error("the system refuses thread " + std::to_string(i + 1) + " of " +
                                     std::to_string(n_threads) + " (" + error.code().message() +
                                     "); use fewer threads, or allow this user more");
        }
    }
}

ThreadPool::~ThreadPool() {
    if (forked()) {
        (void)workers_.release();  // a forked child has no such threads to wait for
        return;
    }
    stop();
}

void ThreadPool::stop() {
    active_ = n_threads_;
    stopping_ = true;
    for (size_t i = 1; i < n_threads_; ++i) workers_[i].start.advance();
    meet();
    for (size_t i = 1; i < n_threads_; ++i) workers_[i].thread.join();
}

bool ThreadPool::forked() const {
    return os::process_id() != process_;
}

void ThreadPool::set_active(size_t n) {
    if (n == active_) return;
    for (size_t i = n; i < active_; ++i) places_.leave(i);
    active_ = n;
}

std::chrono::nanoseconds ThreadPool::slept() const {
    int64_t sum = 0;
    for (size_t i = 0; i < n_threads_; ++i) sum += workers_[i].slept_ns.load(std::memory_order_relaxed);
    return std::chrono::nanoseconds(sum);
}

bool ThreadPool::spin(const SleepWord& word, uint32_t old, nanoseconds time) {
    if (time == nanoseconds(0)) return word.value() != old;
    const auto end = std::chrono::steady_clock::now() + time;
    do {
        for (int i = 0; i < kPauses; ++i) {
            if (word.value() != old) return true;
            pause_cpu();
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

void ThreadPool::sleep_at_barrier(uint32_t phase, size_t n_threads) {
    const auto begin = std::chrono::steady_clock::now();
    while (!phase_.sleep(phase, kParkTime)) {
        for (size_t i = 1; i < n_threads; ++i) workers_[i].start.wake();
    }
    const std::chrono::nanoseconds slept = std::chrono::steady_clock::now() - begin;
    workers_[own_index].slept_ns.fetch_add(slept.count(), std::memory_order_relaxed);
}

void ThreadPool::barrier() {
    if (!meet()) throw Abandoned{};
}

bool ThreadPool::meet() {
    // Read before the thread arrives: once all have, the next run may already have others.
    const size_t n_threads = active_;
    if (n_threads == 1) return true;
    const uint32_t phase = phase_.value();
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == n_threads) {
        arrived_.store(0, std::memory_order_relaxed);
        phase_.advance();
    } else {
        // A thread that outlasts its spinning waits for one that has lost its CPU, perhaps to this one: it
        // spins less next time.
        const nanoseconds time = spinning_.load(std::memory_order_relaxed);
        const bool opened = spin(phase_, phase, time);
        const nanoseconds next = opened ? std::min(2 * time, kSpinning) : std::max(time / 2, kLeastSpinning);
        if (time > nanoseconds(0) && next != time) spinning_.store(next, std::memory_order_relaxed);
        if (!opened) {
            sleep_at_barrier(phase, n_threads);
            if (most_spinning_ > nanoseconds(0)) places_.part(own_index);
        }
    }
    // A thread that gave up said so before it came. Later runs give up in later phases only.
    return broken_.load(std::memory_order_relaxed) != phase;
}

// Calls fn and waits until all threads have left it, by an exception or not. A thread that gives up comes to
// the barrier at which the others wait or will wait; there they learn of it, leave fn too, and all meet once
// more. A thread that had left fn before that barrier comes again as well.
void ThreadPool::call(const std::function<void(size_t)>& fn, size_t index) {
    try {
        fn(index);
    } catch (const Abandoned&) {
        meet();
        return;
    } catch (...) {
        if (!has_error_.exchange(true)) error_ = std::current_exception();
        broken_.store(phase_.value(), std::memory_order_relaxed);
    }
    if (!meet()) meet();
}

void ThreadPool::run(const std::function<void(size_t)>& fn) {
    if (forked()) {
        throw std::runtime_error(
            "this process was forked from the one that loaded the model, without its threads; load the model "
            "in this process, or start it anew (multiprocessing: the \"spawn\" method)");
    }
    const FloatMode mode;
    if (active_ == 1) {
        fn(0);
        return;
    }
    fn_ = &fn;
    own_index = 0;
    places_.note(0);
    for (size_t i = 1; i < active_; ++i) workers_[i].start.advance();
    call(fn, 0);
    if (has_error_.load(std::memory_order_relaxed)) {
        has_error_ = false;
        broken_ = kNotBroken;
        std::rethrow_exception(std::exchange(error_, nullptr));
    }
}

void ThreadPool::work(size_t index) {
    const FloatMode mode;
    own_index = index;
    SleepWord& start = workers_[index].start;
    for (uint32_t seen = 0;; seen += SleepWord::kStep) {
        if (!spin(start, seen, most_spinning_)) {
            for (ParkTime time = kParkTime; !start.sleep(seen, time);)
                time = std::min(2 * time, kLongestIdle);
        }
        if (stopping_) {
            meet();
            return;
        }
        if (most_spinning_ > nanoseconds(0)) places_.part(index);
        call(*fn_, index);
    }
}

}  // namespace edgellm
