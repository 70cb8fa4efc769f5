// SPDX-License-Identifier: MIT
// macOS and iOS. A thread cannot choose its CPU here, and pages of 16 KB are all there are.
#include <malloc/malloc.h>
#include <sys/sysctl.h>

#include <algorithm>
#include <thread>

#include "base/os/os.h"
#include "base/parking.h"

namespace edgellm::os {
namespace {

size_t read_number(const char* name) {
    uint64_t value = 0;
    size_t size = sizeof(value);
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 ? static_cast<size_t>(value) : 0;
}

}  // namespace

size_t cache_bytes() {
    return std::max(read_number("hw.l3cachesize"), read_number("hw.perflevel0.l2cachesize"));
}

void advise_huge_pages(void*, size_t) {}

void trim_heap() {
    malloc_zone_pressure_relief(nullptr, 0);
}

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

// The system's own calls for this are private before macOS 14.4.
void wait(const std::atomic<uint32_t>& word, uint32_t value, std::chrono::nanoseconds time) {
    park_portably(word, value, time);
}

void wake_all(const std::atomic<uint32_t>& word) {
    unpark_all_portably(word);
}

}  // namespace edgellm::os
