// SPDX-License-Identifier: MIT
// Linux: glibc, musl and Android.
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <thread>

#include "base/os/os.h"

#if defined(__GLIBC__)
#include <malloc.h>
#endif
#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

// A futex takes a timespec of 64 bits only where `long` has as many.
#if defined(__LP64__)
#define EDGELLM_FUTEX 1
#include <linux/futex.h>
#include <sys/syscall.h>

#include <climits>
#include <ctime>
#else
#include "base/parking.h"
#endif

namespace edgellm::os {

size_t cache_bytes() {
#if defined(_SC_LEVEL3_CACHE_SIZE)
    return static_cast<size_t>(std::max(0L, sysconf(_SC_LEVEL3_CACHE_SIZE)));
#else
    return 0;  // musl does not tell
#endif
}

size_t huge_page_bytes() {
    static const size_t bytes = [] {
        std::FILE* file = std::fopen("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", "re");
        if (file == nullptr) return size_t{0};
        size_t size = 0;
        if (std::fscanf(file, "%zu", &size) != 1) size = 0;
        std::fclose(file);
        return size;
    }();
    return bytes;
}

void advise_huge_pages(void* data, size_t bytes) {
    madvise(data, bytes, MADV_HUGEPAGE);
}

void trim_heap() {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}

size_t usable_cpus() {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return static_cast<size_t>(CPU_COUNT(&set));
    return std::max(1u, std::thread::hardware_concurrency());
}

ArmFeatures arm_features() {
#if defined(__aarch64__)
    const unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
    return {.dotprod = (hwcap >> 20 & 1) != 0,  // HWCAP_ASIMDDP
            .i8mm = (hwcap2 >> 13 & 1) != 0};   // HWCAP2_I8MM
#else
    return {};
#endif
}

int current_cpu() {
    return sched_getcpu();
}

int64_t waited_ns() {
    std::FILE* file = std::fopen("/proc/thread-self/schedstat", "re");
    if (file == nullptr) return -1;
    long long ran, waited;
    const int n = std::fscanf(file, "%lld %lld", &ran, &waited);
    std::fclose(file);
    return n == 2 ? waited : -1;
}

namespace {

// True if `allowed` is no smaller than any set of CPUs seen before. A set that a thread asks for stays its
// own: asked for while Android keeps the app in the background, on few CPUs, it would outlast that.
bool is_widest(const cpu_set_t& allowed) {
    static std::mutex mutex;
    static cpu_set_t widest = allowed;
    const std::lock_guard lock(mutex);
    CPU_OR(&widest, &widest, &allowed);
    return CPU_EQUAL(&widest, &allowed);
}

}  // namespace

bool move_off(std::span<const int> taken) {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0 || !is_widest(allowed)) return false;
    cpu_set_t free = allowed;
    for (const int cpu : taken) {
        if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_CLR(cpu, &free);
    }
    if (CPU_COUNT(&free) == 0 || sched_setaffinity(0, sizeof(free), &free) != 0) return false;
    sched_setaffinity(0, sizeof(allowed), &allowed);
    return true;
}

#if defined(EDGELLM_FUTEX)

void wait(const std::atomic<uint32_t>& word, uint32_t value, std::chrono::nanoseconds time) {
    static_assert(sizeof(word) == 4);
    constexpr int64_t kSecond = 1'000'000'000;
    const timespec relative{static_cast<time_t>(time.count() / kSecond),
                            static_cast<long>(time.count() % kSecond)};
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, &relative, nullptr, 0);
}

void wake_all(const std::atomic<uint32_t>& word) {
    syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

#else

void wait(const std::atomic<uint32_t>& word, uint32_t value, std::chrono::nanoseconds time) {
    park_portably(word, value, time);
}

void wake_all(const std::atomic<uint32_t>& word) {
    unpark_all_portably(word);
}

#endif

}  // namespace edgellm::os
