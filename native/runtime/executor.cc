// SPDX-License-Identifier: MIT
#include "runtime/executor.h"

#include <chrono>
#include <cstring>
#include <type_traits>
#include <variant>

#include "base/thread_pool.h"
#include "runtime/run_state.h"

namespace edgellm {
namespace {

uint64_t now_ns() {
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(
                                     std::chrono::steady_clock::now().time_since_epoch())
                                     .count());
}

// Adds the time since the last lap to sums of a profile, for the thread that is timed.
class Stopwatch {
  public:
    Stopwatch(Profile* profile, bool timed)
        : profile_(timed ? profile : nullptr), start_(timed ? now_ns() : 0) {}

    void lap(uint64_t Profile::* sum) {
        if (profile_ == nullptr) return;
        const uint64_t now = now_ns();
        profile_->*sum += now - start_;
        start_ = now;
    }

  private:
    Profile* profile_;
    uint64_t start_;
};

}  // namespace

Executor::Executor(const ExecutionPlan& plan, const Program& program, const Weights& weights,
                   const Adapters& adapters, ThreadPool* pool, size_t context)
    : context_(plan, program, weights, pool, context),
      router_(context_),
      rows_(&context_, &router_),
      adapters_(&context_, adapters, LinearRunner::kTileFloats),
      top_logits_(context_, adapters_),
      linear_(&context_, &rows_, &adapters_, &top_logits_),
      attention_(&context_),
      moe_(&context_, router_),
      choices_{ThreadChoice(pool->size(), pool->kinds().n_fast()), ThreadChoice(pool->size())} {}

void Executor::run(float* logits, size_t n_largest) {
    top_logits_.start(n_largest);
    run_stages(logits, context_.plan.stages.size());
    if (!batch().output_rows.empty()) top_logits_.update_top_n_policy();
}

void Executor::run_hidden(float* hidden) {
    Batch& b = batch();
    b.output_rows.resize(b.n_rows);
    for (size_t i = 0; i < b.n_rows; ++i) b.output_rows[i] = static_cast<uint32_t>(i);
    top_logits_.start(0);
    run_stages(nullptr, static_cast<size_t>(context_.plan.hidden_stage));
    const ValueRef& value = context_.plan.hidden;
    for (size_t i = 0; i < b.n_rows; ++i)
        std::memcpy(hidden + i * value.width, context_.at(value, i), value.width * sizeof(float));
}

void Executor::run_stages(float* logits, size_t last_stage) {
    context_.start(logits);
    adapters_.read_scales();
    const size_t rows = context_.n_rows;
    ThreadChoice& choice = choices_[rows < kStreamRows ? 0 : 1];
    ThreadPool& pool = context_.pool;
    pool.set_active(choice.threads(rows));
    const std::chrono::nanoseconds slept = pool.slept();
    const uint64_t begin = now_ns();
    pool.run([this, last_stage](size_t t) { run_thread(t, last_stage); });
    choice.record(rows, static_cast<double>(now_ns() - begin) * 1e-9,
                  std::chrono::duration<double>(pool.slept() - slept).count());
}

void Executor::run_thread(size_t t, size_t last_stage) {
    const ExecutionPlan& plan = context_.plan;
    Stopwatch stopwatch(&profile, profile.enabled && t == 0);
    if (!plan.angles.empty()) {
        rows_.compute_angles(t);
        context_.barrier();
    }
    stopwatch.lap(&Profile::angles);
    // The product that follows hidden rows makes logits; an encoder's is itself a part of them.
    const bool prologue_is_last = context_.program.logits >= 0;
    for (size_t s = 0; s < plan.stages.size() && s <= last_stage; ++s) {
        uint64_t Profile::* const sum = run_stage(s, t, prologue_is_last && s == last_stage);
        context_.barrier();
        stopwatch.lap(sum);
        if (static_cast<int>(s) == plan.select_after && !select_rows(t)) return;
    }
}

uint64_t Profile::* Executor::run_stage(size_t s, size_t t, bool hidden_only) {
    const bool is_last = s + 1 == context_.plan.stages.size();
    const auto run = [&](const auto& stage) -> uint64_t Profile::* {
        using Kind = std::decay_t<decltype(stage)>;
        if constexpr (std::is_same_v<Kind, RowStage>) {
            rows_.run(s, stage, t);
        } else if constexpr (std::is_same_v<Kind, LinearStage>) {
            if (hidden_only) {
                linear_.run_prologue(s, stage, t);
            } else {
                linear_.run(s, stage, t);
            }
            if (is_last) return &Profile::head;
        } else if constexpr (std::is_same_v<Kind, AttentionStage>) {
            attention_.run(s, stage, t);
        } else if constexpr (std::is_same_v<Kind, MoeStage>) {
            moe_.run(s, stage, t);
        } else {
            run_state(context_, stage, t);
        }
        return Kind::kTime;
    };
    return std::visit(run, context_.plan.stages[s]);
}

bool Executor::select_rows(size_t t) {
    const size_t n = batch().output_rows.size();
    if (n == context_.n_rows) return true;
    if (n == 0) return false;
    context_.move_output_rows(t);
    context_.barrier();
    if (t == 0) {
        context_.select_output_rows();
        router_.select_rows();
        adapters_.select_scales();
    }
    context_.barrier();
    return true;
}

}  // namespace edgellm
