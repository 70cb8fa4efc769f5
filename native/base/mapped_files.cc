// SPDX-License-Identifier: MIT
#include "base/mapped_files.h"

#if defined(__unix__) || defined(__APPLE__)
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>
#endif

namespace edgellm {

#if defined(__unix__) || defined(__APPLE__)

namespace {

// Data of the signal handler: nothing but atomics, and no memory that may go.
struct Guarded {
    std::atomic<uintptr_t> begin{0}, end{0};
    std::atomic<bool> torn{false}, taken{false};
};

constexpr size_t kMostGuarded = 512;
std::array<Guarded, kMostGuarded> guarded;
uintptr_t page_size = 4096;
struct sigaction previous;

// Puts zeros in place of the page and all that follow: the file ends before it.
bool mend(uintptr_t address) {
    for (Guarded& g : guarded) {
        const uintptr_t begin = g.begin.load(std::memory_order_acquire);
        const uintptr_t end = g.end.load(std::memory_order_acquire);
        if (address < begin || address >= end) continue;
        const uintptr_t page = address / page_size * page_size;
        void* zeros = mmap(reinterpret_cast<void*>(page), end - page, PROT_READ,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        g.torn.store(true, std::memory_order_release);
        return zeros != MAP_FAILED;
    }
    return false;
}

void on_sigbus(int signal, siginfo_t* info, void* context) {
    const int saved = errno;
    const bool mended = mend(reinterpret_cast<uintptr_t>(info->si_addr));
    errno = saved;
    if (mended) return;
    if ((previous.sa_flags & SA_SIGINFO) != 0) {
        previous.sa_sigaction(signal, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(signal);
    } else {
        sigaction(signal, &previous, nullptr);  // it is raised again
    }
}

void install() {
    page_size = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action = {};
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous);
}

}  // namespace

int guard_mapping(const void* data, size_t n) {
    static std::once_flag installed;
    std::call_once(installed, install);
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

#else

int guard_mapping(const void*, size_t) {
    return -1;
}
void unguard_mapping(int) {}
bool mapping_torn(int) {
    return false;
}

#endif

}  // namespace edgellm
