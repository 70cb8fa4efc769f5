// SPDX-License-Identifier: MIT
#include <span>

#include "base/vec_portable8.h"
#include "quantize/generic.h"

namespace edgellm {
extern const std::span<const Encoder> kEncodersScalar;
const std::span<const Encoder> kEncodersScalar = kTable;
}  // namespace edgellm
