// SPDX-License-Identifier: MIT
#pragma once

#include "base/portable_vec.h"

namespace edgellm {
namespace {

using Vec = PortableVec;

}  // namespace
}  // namespace edgellm
