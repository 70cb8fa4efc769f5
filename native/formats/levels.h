// SPDX-License-Identifier: MIT
// Tables that several formats share: the value of each 4-bit code.
#pragma once

#include <cstdint>

namespace edgellm {

// Sixteen levels that lie denser around zero.
inline constexpr int8_t kIQ4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};
// The E2M1 values of OCP MX 1.0, doubled to be integers.
inline constexpr int8_t kE2M1Levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

}  // namespace edgellm
