// SPDX-License-Identifier: MIT
// Eight float lanes wherever the compiler's own vectors have four: for code that works on eight lanes with
// every instruction set.
#pragma once

#include "base/portable_vec.h"
#include "base/vec_pair.h"

namespace edgellm {
namespace {

using Vec = PairVec<PortableVec>;
static_assert(Vec::kLanes == 8 && SimdVocabulary<Vec>);

}  // namespace
}  // namespace edgellm
