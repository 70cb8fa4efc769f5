// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

namespace edgellm {

// Nanoseconds per kind of work, summed over steps, as thread 0 sees them (barriers included).
struct Profile {
    bool enabled = false;
    uint64_t angles = 0, rows = 0, linear = 0, head = 0, attend = 0, moe = 0, state = 0;
};

}  // namespace edgellm
