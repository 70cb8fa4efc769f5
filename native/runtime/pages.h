// SPDX-License-Identifier: MIT
// Pages of a file mapping that the process no longer needs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgellm {

// Tells the system that the whole pages inside [data, data + n) can be dropped; they come back from the file
// if read again.
void drop_pages(const uint8_t* data, size_t n);

}  // namespace edgellm
