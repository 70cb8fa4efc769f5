// SPDX-License-Identifier: MIT
#include "base/parking.h"

#include <condition_variable>
#include <cstddef>
#include <mutex>

#include "base/os/os.h"

namespace edgellm {
namespace {

std::atomic<bool> wakes_lost{false};

struct Bucket {
    std::mutex mutex;
    std::condition_variable changed;
};

// Threads that sleep on different words may share a bucket: they wake in vain and look again.
Bucket& bucket_of(const std::atomic<uint32_t>& word) {
    constexpr size_t kBuckets = 16;
    static auto* const buckets = new Bucket[kBuckets];  // never freed: threads may outlive static objects
    return buckets[reinterpret_cast<uintptr_t>(&word) / 64 % kBuckets];
}

}  // namespace

void lose_wakes(bool on) {
    wakes_lost.store(on);
}

void park_portably(const std::atomic<uint32_t>& word, uint32_t value, ParkTime time) {
    Bucket& bucket = bucket_of(word);
    std::unique_lock lock(bucket.mutex);
    // Under the lock, which unpark_all takes too: no change falls between this look and the sleep.
    if (word.load(std::memory_order_seq_cst) == value) bucket.changed.wait_for(lock, time);
}

void unpark_all_portably(const std::atomic<uint32_t>& word) {
    if (wakes_lost.load(std::memory_order_relaxed)) return;
    Bucket& bucket = bucket_of(word);
    {
        const std::lock_guard lock(bucket.mutex);
    }
    bucket.changed.notify_all();
}

void park(const std::atomic<uint32_t>& word, uint32_t value, ParkTime time) {
    os::wait(word, value, time);
}

void unpark_all(const std::atomic<uint32_t>& word) {
    if (!wakes_lost.load(std::memory_order_relaxed)) os::wake_all(word);
}

}  // namespace edgellm
