// SPDX-License-Identifier: MIT
#include "runtime/pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include "base/memory.h"

namespace edgellm {

void drop_pages(const uint8_t* data, size_t n) {
    const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    const uintptr_t begin = align_up(reinterpret_cast<uintptr_t>(data), page);
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + n) / page * page;
    if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

}  // namespace edgellm
