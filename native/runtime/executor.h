// SPDX-License-Identifier: MIT
// Runs a plan's stages on a batch of rows. All memory is allocated when it is made; a run neither allocates
// nor throws.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/thread_choice.h"
#include "runtime/adapters.h"
#include "runtime/profile.h"
#include "runtime/run_adapters.h"
#include "runtime/run_attention.h"
#include "runtime/run_context.h"
#include "runtime/run_linear.h"
#include "runtime/run_moe.h"
#include "runtime/run_route.h"
#include "runtime/run_rows.h"
#include "runtime/run_top_logits.h"

namespace edgellm {

class Executor {
  public:
    // context: most tokens of one sequence. The weights may be loaded later, before the first run.
    Executor(const ExecutionPlan& plan, const Program& program, const Weights& weights,
             const Adapters& adapters, ThreadPool* pool, size_t context);

    Batch& batch() { return context_.batch; }
    Profile profile;

    // logits: (output rows, n_vocab). Only the n_largest largest logits of each row are exact; the others
    // hold some smaller value. 0: all exact.
    void run(float* logits, size_t n_largest);
    // hidden: (rows, width); stops after the stage that makes it.
    void run_hidden(float* hidden);

    // Bytes of weights that all runs skipped thanks to n_largest.
    uint64_t unread_bytes() const { return top_logits_.unread_bytes(); }
    uint64_t multiplied_rows() const { return linear_.multiplied_rows(); }

  private:
    // last_stage: the stage that makes the hidden value, of which only that work is done; past the end: all
    // stages run.
    void run_stages(float* logits, size_t last_stage);
    void run_thread(size_t t, size_t last_stage);
    // Returns the sum of the profile that the stage's time goes to.
    uint64_t Profile::* run_stage(size_t s, size_t t, bool hidden_only);
    // After the last stage that writes to a sequence: only output rows go on. False if there are none.
    bool select_rows(size_t t);

    RunContext context_;
    Router router_;
    RowRunner rows_;
    AdapterRunner adapters_;
    TopLogits top_logits_;
    LinearRunner linear_;
    AttentionRunner attention_;
    MoeRunner moe_;
    std::array<ThreadChoice, 2> choices_;  // for steps of few rows, and of many
};

}  // namespace edgellm
