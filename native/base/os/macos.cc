// SPDX-License-Identifier: MIT
// macOS and iOS. Pages of 16 KB are all there are; calls like a futex are private before macOS 14.4.
#include <malloc/malloc.h>
#include <sys/sysctl.h>

#include <algorithm>
#include <cstdint>

#include "base/os/os.h"

namespace edgellm::os {
namespace {

size_t read_number(const char* name) {
    uint64_t value = 0;
    size_t size = sizeof(value);
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 ? static_cast<size_t>(value) : 0;
}

}  // namespace

size_t cache_bytes() {
    return std::max(read_number("hw.l3cachesize"), read_number("hw.perflevel0.l2cachesize"));
}

void trim_heap() {
    malloc_zone_pressure_relief(nullptr, 0);
}

}  // namespace edgellm::os
