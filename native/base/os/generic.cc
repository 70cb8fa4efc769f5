// SPDX-License-Identifier: MIT
// POSIX systems without a file of their own.
#include "base/os/os.h"

namespace edgellm::os {

size_t cache_bytes() {
    return 0;
}

ArmFeatures arm_features() {
    return {};
}

void trim_heap() {}

}  // namespace edgellm::os
