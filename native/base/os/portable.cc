// SPDX-License-Identifier: MIT
// POSIX systems on which a thread cannot choose its CPU and that have no huge pages and no public futex.
#include <algorithm>
#include <thread>

#include "base/os/os.h"
#include "base/parking.h"

namespace edgellm::os {

size_t huge_page_bytes() {
    return 0;
}

void advise_huge_pages(void*, size_t) {}

size_t usable_cpus() {
    return std::max(1u, std::thread::hardware_concurrency());
}

int current_cpu() {
    return -1;
}

int64_t waited_ns() {
    return -1;
}

bool move_off(std::span<const int>) {
    return false;
}

void wait(const std::atomic<uint32_t>& word, uint32_t value, std::chrono::nanoseconds time) {
    park_portably(word, value, time);
}

void wake_all(const std::atomic<uint32_t>& word) {
    unpark_all_portably(word);
}

}  // namespace edgellm::os
