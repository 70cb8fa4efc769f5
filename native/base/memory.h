// SPDX-License-Identifier: MIT
// Large zeroed regions, aligned so that the kernel can back them with huge pages: to 2 MiB, and to the size
// of its largest ones where the region has room for one. Memory that is never touched is never resident.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgellm {

class Region {
  public:
    Region() = default;
    // Throws std::bad_alloc. huge: ask for transparent huge pages (dense use); otherwise pages come one by
    // one.
    Region(size_t bytes, bool huge);
    ~Region();
    Region(Region&& other) noexcept;
    Region& operator=(Region&& other) noexcept;
    Region(const Region&) = delete;
    Region& operator=(const Region&) = delete;

    uint8_t* data() const { return data_; }
    size_t size() const { return size_; }

  private:
    void* map_ = nullptr;
    size_t map_bytes_ = 0;
    uint8_t* data_ = nullptr;
    size_t size_ = 0;
};

constexpr size_t align_up(size_t n, size_t to) {
    return (n + to - 1) / to * to;
}

}  // namespace edgellm
