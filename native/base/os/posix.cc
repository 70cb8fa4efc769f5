// SPDX-License-Identifier: MIT
// Calls that all POSIX systems have in common.
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

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

FileMapping map_file(const char* path) {
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) throw std::system_error(errno, std::generic_category());
    try {
        const FileMapping mapping = map_descriptor(descriptor, 0, 0);
        close(descriptor);
        return mapping;
    } catch (...) {
        close(descriptor);
        throw;
    }
}

FileMapping map_descriptor(int descriptor, uint64_t offset, uint64_t bytes) {
    struct stat status;
    if (fstat(descriptor, &status) != 0) throw std::system_error(errno, std::generic_category());
    const auto size = static_cast<uint64_t>(std::max<off_t>(status.st_size, 0));
    if (S_ISDIR(status.st_mode)) throw std::system_error(EISDIR, std::generic_category());
    if (offset >= size || bytes > size - offset || size > SIZE_MAX)
        throw std::system_error(EINVAL, std::generic_category());
    FileMapping mapping;
    mapping.bytes = static_cast<size_t>(bytes == 0 ? size - offset : bytes);
    const auto before = static_cast<size_t>(offset % page_size());
    mapping.base_bytes = mapping.bytes + before;
    mapping.base = mmap(nullptr, mapping.base_bytes, PROT_READ, MAP_SHARED, descriptor,
                        static_cast<off_t>(offset - before));
    if (mapping.base == MAP_FAILED) throw std::system_error(errno, std::generic_category());
    mapping.data = static_cast<const uint8_t*>(mapping.base) + before;
    return mapping;
}

void unmap_file(const FileMapping& mapping) {
    munmap(mapping.base, mapping.base_bytes);
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
