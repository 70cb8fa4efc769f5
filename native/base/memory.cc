// SPDX-License-Identifier: MIT
#include "base/memory.h"

#include <algorithm>
#include <new>
#include <utility>

#include "base/os/os.h"

namespace edgellm {
namespace {

// A huge page over pages of 4 KB. Where pages are larger the largest huge pages are, too, but Linux also
// makes ones of this size.
constexpr size_t kHuge = size_t{2} << 20;

}  // namespace

Region::Region(size_t bytes, bool huge) {
    if (bytes == 0) return;
    const size_t largest = os::huge_page_bytes();
    const size_t alignment = huge && bytes >= largest ? std::max(largest, kHuge) : kHuge;
    if (bytes > SIZE_MAX - 2 * alignment) throw std::bad_alloc();
    map_bytes_ = align_up(bytes, kHuge) + alignment;
    map_ = os::map_zeros(map_bytes_);
    if (map_ == nullptr) throw std::bad_alloc();
    data_ = reinterpret_cast<uint8_t*>(align_up(reinterpret_cast<uintptr_t>(map_), alignment));
    size_ = bytes;
    // The last, partly used huge page is left to small pages, so that a small region does not cost 2 MiB. A
    // larger huge page is only made where it is advised for as a whole.
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
