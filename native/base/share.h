// SPDX-License-Identifier: MIT
// Work shared out to the threads of a pool, piece by piece as they come free.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>

#include "base/thread_pool.h"

namespace edgellm {

// Calls work(begin, end) over ranges of 0 .. n, at most `step` long.
template <class Work>
void share(ThreadPool& pool, size_t n, size_t step, const Work& work) {
    const size_t n_pieces = (n + step - 1) / step;
    std::atomic<size_t> next{0};
    pool.run([&](size_t) {
        for (size_t piece; (piece = next.fetch_add(1, std::memory_order_relaxed)) < n_pieces;) {
            work(piece * step, std::min(n, (piece + 1) * step));
        }
    });
}

}  // namespace edgellm
