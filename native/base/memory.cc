// SPDX-License-Identifier: MIT
#include "base/memory.h"

#include <new>
#include <utility>

#include "base/os/os.h"

namespace edgellm {
namespace {
constexpr size_t kHuge = size_t{2} << 20;
}

Region::Region(size_t bytes, bool huge) {
    if (bytes == 0) return;
    if (bytes > SIZE_MAX - 2 * kHuge) throw std::bad_alloc();
    map_bytes_ = align_up(bytes, kHuge) + kHuge;
    map_ = os::map_zeros(map_bytes_);
    if (map_ == nullptr) throw std::bad_alloc();
    data_ = reinterpret_cast<uint8_t*>(align_up(reinterpret_cast<uintptr_t>(map_), kHuge));
    size_ = bytes;
    // The last, partly used huge page is left to small pages, so that a small region does not cost 2 MiB.
    if (huge && bytes >= kHuge) os::advise_huge_pages(data_, bytes / kHuge * kHuge);
}

Region::~Region() {
    if (map_ != nullptr) os::unmap(map_, map_bytes_);
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
