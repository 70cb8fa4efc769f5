// SPDX-License-Identifier: MIT
#include <span>

#include "base/vec_avx2.h"
#include "quantize/generic.h"

namespace edgellm {
extern const std::span<const Encoder> kEncodersAvx2;
const std::span<const Encoder> kEncodersAvx2 = kTable;
}  // namespace edgellm
