// SPDX-License-Identifier: MIT
// Calls that all POSIX systems have in common.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/os/os.h"

#if !defined(MAP_NORESERVE)
#define MAP_NORESERVE 0
#endif

namespace edgellm::os {
namespace {

bool (*mend_page)(uintptr_t) = nullptr;
struct sigaction previous;

void on_sigbus(int signal, siginfo_t* info, void* context) {
    const int saved = errno;
    const bool mended = mend_page(reinterpret_cast<uintptr_t>(info->si_addr));
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

}  // namespace

size_t page_size() {
    static const auto size = static_cast<size_t>(std::max(4096L, sysconf(_SC_PAGESIZE)));
    return size;
}

size_t memory_bytes() {
    return static_cast<size_t>(std::max(0L, sysconf(_SC_PHYS_PAGES))) * page_size();
}

void* map_zeros(size_t bytes) {
    void* data =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return data == MAP_FAILED ? nullptr : data;
}

void unmap(void* data, size_t bytes) {
    munmap(data, bytes);
}

void drop_file_pages(const void* data, size_t bytes) {
    madvise(const_cast<void*>(data), bytes, MADV_DONTNEED);
}

void on_torn_page(bool (*mend)(uintptr_t address)) {
    page_size();  // known before a handler needs it
    mend_page = mend;
    struct sigaction action = {};
    action.sa_sigaction = on_sigbus;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous);
}

bool replace_with_zeros(void* page, size_t bytes) {
    return mmap(page, bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED;
}

int64_t process_id() {
    return getpid();
}

}  // namespace edgellm::os
