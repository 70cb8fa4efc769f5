// SPDX-License-Identifier: MIT
// Sleep until another thread changes a word: how the threads of a pool wait.
//
// A sleep can be woken late, but not be forgotten: it ends by itself after a time, and its caller looks
// again. Whatever loses a wake-up (a library, the kernel, a hypervisor), it costs no more than that time.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace edgellm {

using ParkTime = std::chrono::nanoseconds;

// The longest sleep inside a run.
constexpr ParkTime kParkTime = std::chrono::milliseconds(20);

// Sleeps until unpark_all is called for this word, but not if it differs from `value`, and no longer than
// `time`. May return early.
void park(const std::atomic<uint32_t>& word, uint32_t value, ParkTime time);
void unpark_all(const std::atomic<uint32_t>& word);

// The same with nothing but a mutex and a condition variable, for systems without futexes.
void park_portably(const std::atomic<uint32_t>& word, uint32_t value, ParkTime time);
void unpark_all_portably(const std::atomic<uint32_t>& word);

// For tests: while on, no call of unpark_all wakes anybody.
void lose_wakes(bool on);

// A number on which threads sleep until it moves on. One thread at a time may advance it.
//
// The lowest bit says that somebody sleeps. It is set and taken away by read-modify-write operations on the
// word itself: of a thread that goes to sleep and one that advances, the second in the word's modification
// order sees what the first has done, on every memory model. Two words, a number and a count of sleepers,
// would need a fence between the store to one and the load of the other. std::atomic::notify_all of
// libstdc++ 12 has two and none: after a release store of the number, its load of the count may be done while
// the store still waits in the store buffer. The sleeper then reads the old number, and is not seen.
class SleepWord {
  public:
    static constexpr uint32_t kStep = 2;  // from one value to the next; the first is 0

    uint32_t value() const { return word_.load(std::memory_order_acquire) & ~kAsleep; }

    // All writes before it are seen by whoever sees the new value. Wakes who sleeps.
    void advance() {
        const uint32_t next = (word_.load(std::memory_order_relaxed) & ~kAsleep) + kStep;
        if ((word_.exchange(next, std::memory_order_seq_cst) & kAsleep) != 0) unpark_all(word_);
    }

    // Sleeps while the value is `old`, but no longer than `time`; returns true if it is another one.
    bool sleep(uint32_t old, ParkTime time) {
        uint32_t seen = word_.load(std::memory_order_seq_cst);
        do {
            if ((seen & ~kAsleep) != old) return true;
        } while ((seen & kAsleep) == 0 &&
                 !word_.compare_exchange_weak(seen, seen | kAsleep, std::memory_order_seq_cst));
        park(word_, old | kAsleep, time);
        return value() != old;
    }

    // Wakes who sleeps, so that it looks again.
    void wake() { unpark_all(word_); }

  private:
    static constexpr uint32_t kAsleep = 1;
    std::atomic<uint32_t> word_{0};
};

}  // namespace edgellm
