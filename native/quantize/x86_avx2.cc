// SPDX-License-Identifier: MIT
#if defined(__x86_64__)
#include <span>

#include "quantize/generic.h"

namespace edgellm {
extern const std::span<const Encoder> kEncodersAvx2;
const std::span<const Encoder> kEncodersAvx2 = kTable;
}  // namespace edgellm
#endif
