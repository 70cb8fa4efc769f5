// SPDX-License-Identifier: MIT
// A model ready to run: plan, weights, sequences, threads. Not thread-safe: one caller at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "runtime/adapters.h"
#include "runtime/cache.h"
#include "runtime/executor.h"
#include "runtime/plan.h"
#include "runtime/weights.h"

namespace edgellm {

struct EngineOptions {
    size_t threads = 1;
    size_t context = 4096;       // most tokens of one sequence
    size_t cache_tokens = 4096;  // tokens of all sequences together
    size_t batch = 512;          // most tokens of one step
    KvType kv_type = KvType::kF16;
    Isa isa = Isa::kScalar;
    std::vector<CpuSpeed> speeds;  // of the CPUs that the process may use; empty: alike
};

struct MemoryUse {
    size_t weights, cache, state_per_sequence, scratch, adapters;
};

enum class StepStatus : uint8_t { kOk, kBadSequence, kBadToken, kTooManyTokens, kContextFull, kCacheFull };

class Engine {
  public:
    // types: of every weight of the program. Throws ModelError, std::bad_alloc.
    Engine(std::string_view program, const std::vector<TensorType>& types, const EngineOptions& options);

    // Declares a low-rank adapter, before `load`; its data must live until then. Sequences choose the scale
    // of each adapter, in the order in which they were added. Throws ModelError.
    void add_adapter(const std::vector<UpdateSource>& updates) { adapters_.add(updates); }
    size_t n_adapters() const { return adapters_.size(); }

    // Loads the weights (Weights::load); the data must outlive the engine. An engine that could not load is
    // as it was. Throws ModelError, std::bad_alloc.
    void load(const std::vector<TensorSource>& tensors, bool release);

    MemoryUse memory() const;
    const Program& program() const { return program_; }
    bool loaded() const { return executor_ != nullptr; }
    // The rest needs a loaded engine.
    SequenceStore& sequences() { return *sequences_; }
    Profile& profile() { return executor_->profile; }
    const EngineOptions& options() const { return options_; }

    // Appends tokens[i] to sequences[i]; a sequence's tokens are consecutive. Writes one row of n_vocab
    // logits for each i with outputs[i] != 0, in order. Only the n_largest largest logits of each row are
    // exact; the others hold some smaller value. 0: all exact. On any other status than kOk nothing has
    // changed.
    StepStatus step(const int32_t* tokens, const int32_t* sequences, const uint8_t* outputs, size_t n,
                    size_t n_largest, float* logits);
    // Bytes of weights that all steps so far skipped thanks to n_largest.
    uint64_t unread_bytes() const { return executor_->unread_bytes(); }
    uint64_t multiplied_rows() const { return executor_->multiplied_rows(); }
    // The hidden rows of texts, one after another, each a new sequence that is closed again. lengths: tokens
    // of each text; several fit in one batch. scales: of each adapter, or none.
    StepStatus hidden(const int32_t* tokens, std::span<const uint32_t> lengths,
                      const std::vector<float>& scales, float* out);
    size_t hidden_width() const;

  private:
    StepStatus make_batch(const int32_t* tokens, const int32_t* sequences, size_t n);
    // The batch's segments, one for each sequence, without their sizes.
    StepStatus make_segments(const int32_t* sequences, size_t n);
    // Sizes and positions of the segments; reserves their places in the cache, all or none.
    StepStatus reserve_segments();
    void finish_batch();

    EngineOptions options_;
    Program program_;
    std::vector<const FormatInfo*> formats_;
    ExecutionPlan plan_;
    Weights weights_;
    Adapters adapters_;
    ThreadPool pool_;
    std::unique_ptr<SequenceStore> sequences_;
    std::unique_ptr<Executor> executor_;
    std::vector<int32_t> segment_ids_;
    bool release_ = false;
    size_t embedded_rows_ = 0;  // since embedding pages were last dropped
};

}  // namespace edgellm
