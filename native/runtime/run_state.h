// SPDX-License-Identifier: MIT
// Runs the stages that carry a recurrent state along each sequence; threads share channels or heads.
#pragma once

#include <cstddef>

#include "runtime/run_context.h"

namespace edgellm {

void run_state(const RunContext& context, const ShortConvStage& stage, size_t t);
void run_state(const RunContext& context, const GatedDeltaStage& stage, size_t t);
void run_state(const RunContext& context, const SsmStage& stage, size_t t);

}  // namespace edgellm
