// SPDX-License-Identifier: MIT
// Mappings of files that others may shorten while they are read.
//
// A page of a mapping that its file no longer has raises SIGBUS, which ends the process. In a guarded mapping
// it reads as zeros instead, and the mapping is torn: whoever uses it asks afterwards, and drops the result.
// Systems whose files cannot be shortened while they are mapped need none of this.
#pragma once

#include <cstddef>

namespace edgellm {

// Guards [data, data + n) until unguard_mapping of the number returned; -1 if too many are guarded already.
int guard_mapping(const void* data, size_t n);
void unguard_mapping(int number);
bool mapping_torn(int number);

}  // namespace edgellm
