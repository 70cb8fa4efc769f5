// SPDX-License-Identifier: MIT
// Keeps the threads of a pool on CPUs of their own.
//
// The kernel likes to wake a thread where its waker runs. Beside processes that come and go, such as the
// clients of a server, it may so leave two threads on one CPU, taking turns, for many steps, while another
// CPU is idle for a third of the time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/core_kinds.h"

namespace edgellm {

class CpuPlaces {
  public:
    CpuPlaces(size_t n_threads, CoreKinds kinds = {});

    const CoreKinds& kinds() const { return kinds_; }

    // Notes where a thread of the pool is, which calls this of itself.
    void note(size_t index);
    // Forgets where a thread is: it takes no part for now.
    void leave(size_t index) { places_[index].cpu.store(-1, std::memory_order_relaxed); }
    // The same; if it is where another one was last, it moves to a CPU where none is, and which is not
    // slower. From a slow CPU it moves to a faster one where none is. The set of CPUs that it may run on
    // stays as it was. A thread that had to wait for its new CPU as for the old one, because another process
    // keeps it busy, tries again only later and later.
    void part(size_t index);

  private:
    struct Place {
        std::atomic<int> cpu{-1};
        // In nanoseconds: when it last moved, how long it had waited for a CPU until then, when it may move
        // again, and for how long it may not when a move has brought nothing.
        int64_t moved = 0, waited = 0, not_before = 0, patience = 0;
        std::vector<int> taken;  // CPUs of all threads and slower ones, where this one looks for another
    };
    // True if `cpu`, where thread `index` is, is another thread's as well.
    bool shared(size_t index, int cpu) const;

    size_t n_;
    CoreKinds kinds_;
    std::unique_ptr<Place[]> places_;
};

}  // namespace edgellm
