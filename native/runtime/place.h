// SPDX-License-Identifier: MIT
// The last step of planning: places of buffers, private copies, quantized rows and packed matrices.
#pragma once

#include "runtime/plan.h"

namespace edgellm {

// Gives every buffer a place by its lifetime, every prologue its private memory, every matrix its bytes of
// the weight arena, and names the buffers that live on where unneeded rows are dropped. Throws ModelError.
void place_memory(ExecutionPlan* plan);

}  // namespace edgellm
