// SPDX-License-Identifier: MIT
// macOS and iOS. Pages of 16 KB are all there are; calls like a futex are private before macOS 14.4.
#include <malloc/malloc.h>
#include <sys/sysctl.h>

#include <algorithm>
#include <cstdint>

#include "base/os/os.h"

namespace edgellm::os {
namespace {

// Numbers have 4 or 8 bytes: the rest of `value` stays 0.
size_t read_number(const char* name) {
    uint64_t value = 0;
    size_t size = sizeof(value);
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 ? static_cast<size_t>(value) : 0;
}

}  // namespace

size_t cache_bytes() {
    return std::max(read_number("hw.l3cachesize"), read_number("hw.perflevel0.l2cachesize"));
}

ArmFeatures arm_features() {
    return {.dotprod = read_number("hw.optional.arm.FEAT_DotProd") != 0,
            .i8mm = read_number("hw.optional.arm.FEAT_I8MM") != 0};
}

void trim_heap() {
    malloc_zone_pressure_relief(nullptr, 0);
}

}  // namespace edgellm::os
