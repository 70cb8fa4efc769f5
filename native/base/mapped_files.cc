// SPDX-License-Identifier: MIT
#include "base/mapped_files.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>

#include "base/os/os.h"

namespace edgellm {
namespace {

// Data of the signal handler: nothing but atomics, and no memory that may go.
struct Guarded {
    std::atomic<uintptr_t> begin{0}, end{0};
    std::atomic<bool> torn{false}, taken{false};
};

constexpr size_t kMostGuarded = 512;
std::array<Guarded, kMostGuarded> guarded;

// Puts zeros in place of the page and all that follow: the file ends before it.
bool mend(uintptr_t address) {
    for (Guarded& g : guarded) {
        const uintptr_t begin = g.begin.load(std::memory_order_acquire);
        const uintptr_t end = g.end.load(std::memory_order_acquire);
        if (address < begin || address >= end) continue;
        const uintptr_t page = address / os::page_size() * os::page_size();
        const bool mended = os::replace_with_zeros(reinterpret_cast<void*>(page), end - page);
        g.torn.store(true, std::memory_order_release);
        return mended;
    }
    return false;
}

}  // namespace

int guard_mapping(const void* data, size_t n) {
    static std::once_flag installed;
    std::call_once(installed, [] { os::on_torn_page(mend); });
    for (size_t i = 0; i < guarded.size(); ++i) {
        Guarded& g = guarded[i];
        if (g.taken.exchange(true, std::memory_order_acq_rel)) continue;
        g.torn.store(false, std::memory_order_relaxed);
        g.begin.store(reinterpret_cast<uintptr_t>(data), std::memory_order_release);
        g.end.store(reinterpret_cast<uintptr_t>(data) + n, std::memory_order_release);
        return static_cast<int>(i);
    }
    return -1;
}

void unguard_mapping(int number) {
    if (number < 0 || static_cast<size_t>(number) >= guarded.size()) return;
    Guarded& g = guarded[static_cast<size_t>(number)];
    g.end.store(0, std::memory_order_release);
    g.begin.store(0, std::memory_order_release);
    g.taken.store(false, std::memory_order_release);
}

bool mapping_torn(int number) {
    return number >= 0 && static_cast<size_t>(number) < guarded.size() &&
           guarded[static_cast<size_t>(number)].torn.load(std::memory_order_acquire);
}

}  // namespace edgellm
