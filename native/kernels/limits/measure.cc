// SPDX-License-Identifier: MIT
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>

#include "base/memory.h"
#include "base/os/os.h"
#include "base/thread_pool.h"
#include "kernels/limits/limits.h"

namespace edgellm {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
}

// Calls `run(thread)` on all threads together for `seconds`, and returns the best rate: units of all threads
// over the time from the common start to the last thread's end.
double best_rate(ThreadPool& pool, double seconds, const std::function<double(size_t)>& run) {
    double best = 0.0;
    const auto begin = Clock::now();
    do {
        std::atomic<double> units{0.0};
        Clock::time_point start;
        pool.run([&](size_t thread) {
            pool.barrier();
            if (thread == 0) start = Clock::now();
            const double done = run(thread);
            double sum = units.load();
            while (!units.compare_exchange_weak(sum, sum + done)) {
            }
        });
        best = std::max(best, units.load() / seconds_since(start));
    } while (seconds_since(begin) < seconds);
    return best;
}

}  // namespace

size_t beyond_caches() {
    const size_t least = 64 << 20;
    const size_t most = std::clamp<size_t>(os::memory_bytes() / 8, least, 1 << 30);
    return std::clamp(4 * os::cache_bytes(), least, most);
}

Limits measure_limits(Isa isa, size_t n_threads, double seconds, size_t n_bytes) {
    const LimitKernels& kernels = limit_kernels(isa);
    const size_t part = align_up(std::max<size_t>(n_bytes / n_threads, 1), 4096);
    Region buffer(part * n_threads, true);
    Limits out{};
    ThreadPool pool(n_threads, true);
    std::atomic<uint64_t> sink{0};
    pool.run([&](size_t t) { std::memset(buffer.data() + t * part, static_cast<int>(t + 1), part); });
    out.read_bytes_per_s = best_rate(pool, seconds, [&](size_t t) {
        sink += kernels.read(buffer.data() + t * part, part);
        return static_cast<double>(part);
    });
    // Rounds of about 10 ms.
    size_t rounds = 1 << 14;
    const auto start = Clock::now();
    kernels.int8(rounds);
    rounds =
        static_cast<size_t>(static_cast<double>(rounds) * std::clamp(0.01 / seconds_since(start), 0.1, 1e4));
    out.int8_macs_per_s =
        best_rate(pool, seconds, [&](size_t) { return static_cast<double>(kernels.int8(rounds)); });
    out.float_macs_per_s =
        best_rate(pool, seconds, [&](size_t) { return static_cast<double>(kernels.float32(rounds)); });
    return out;
}

}  // namespace edgellm
