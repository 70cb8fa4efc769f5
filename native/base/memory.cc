// SPDX-License-Identifier: MIT
#include "base/memory.h"

#include <sys/mman.h>

#include <new>
#include <utility>

namespace edgellm {
namespace {
constexpr size_t kHuge = size_t{2} << 20;
}

Region::Region(size_t bytes, bool huge) {
    if (bytes == 0) return;
    if (bytes > SIZE_MAX - 2 * kHuge) throw std::bad_alloc();
    map_bytes_ = align_up(bytes, kHuge) + kHuge;
    map_ =
        mmap(nullptr, map_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map_ == MAP_FAILED) {
        map_ = nullptr;
        throw std::bad_alloc();
    }
    data_ = reinterpret_cast<uint8_t*>(align_up(reinterpret_cast<uintptr_t>(map_), kHuge));
    size_ = bytes;
#ifdef MADV_HUGEPAGE
    // Advice only: where the kernel has no huge pages the region works all the same. The last, partly used
    // huge page is left to small pages, so that a small region does not cost 2 MiB.
    if (huge && bytes >= kHuge) madvise(data_, bytes / kHuge * kHuge, MADV_HUGEPAGE);
#endif
}

Region::~Region() {
    if (map_ != nullptr) munmap(map_, map_bytes_);
}

Region::Region(Region&& other) noexcept {
    *this = std::move(other);
}

Region& Region::operator=(Region&& other) noexcept {
    std::swap(map_, other.map_);
    std::swap(map_bytes_, other.map_bytes_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

}  // namespace edgellm
