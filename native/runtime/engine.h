// SPDX-License-Identifier: MIT
// A model ready to run: plan, weights, sequences, threads. Not thread-safe: one caller at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/memory.h"
#include "base/thread_pool.h"
#include "runtime/adapters.h"
#include "runtime/cache.h"
#include "runtime/executor.h"
#include "runtime/plan.h"

namespace edgellm {

struct EngineOptions {
    size_t threads = 1;
    size_t context = 4096;       // most tokens of one sequence
    size_t cache_tokens = 4096;  // tokens of all sequences together
    size_t batch = 512;          // most tokens of one step
    KvType kv_type = KvType::kF16;
    Isa isa = Isa::kScalar;
};

struct TensorSource {
    std::string name;
    uint32_t type;
    const uint8_t* data;
    size_t n_bytes;
};

struct MemoryUse {
    size_t weights, cache, state_per_sequence, scratch, adapters;
};

enum class StepStatus : uint8_t { kOk, kBadSequence, kBadToken, kTooManyTokens, kContextFull, kCacheFull };

class Engine {
  public:
    // `types`: (weight name, format number) of every weight of the program. Throws ModelError,
    // std::bad_alloc.
    Engine(std::string_view program, const std::vector<std::pair<std::string, uint32_t>>& types,
           const EngineOptions& options);

    // Declares a low-rank adapter, before `load`; its data must live until then. Sequences choose the scale
    // of each adapter, in the order in which they were added. Throws ModelError.
    void add_adapter(const std::vector<UpdateSource>& updates) { adapters_.add(updates); }
    size_t n_adapters() const { return adapters_.size(); }

    // Packs the weights, all threads together, tensor by tensor. The data must outlive the engine: embedding
    // rows are read where they are. release: let the system drop packed source pages; only for data in a file
    // mapping, from which they come back when they are read again. Throws ModelError naming the tensor that
    // is missing, misshapen or not finite.
    void load(const std::vector<TensorSource>& tensors, bool release);

    MemoryUse memory() const;
    const Program& program() const { return program_; }
    bool loaded() const { return executor_ != nullptr; }
    // The rest needs a loaded engine.
    SequenceStore& sequences() { return *sequences_; }
    Profile& profile() { return executor_->profile; }
    const EngineOptions& options() const { return options_; }

    // Appends tokens[i] to sequences[i]; a sequence's tokens are consecutive. Writes one row of n_vocab
    // logits for each i with outputs[i] != 0, in order. n_largest: so many of a row's largest logits are
    // wanted, and others may be anything below them; 0: all. On any other status than kOk nothing has
    // changed.
    StepStatus step(const int32_t* tokens, const int32_t* sequences, const uint8_t* outputs, size_t n,
                    size_t n_largest, float* logits);
    // Bytes of weights that steps have not had to read, since the engine was loaded.
    uint64_t unread_bytes() const { return executor_->unread_bytes; }
    // The hidden rows (n, width) of one new sequence that is closed again. scales: of each adapter, or none.
    StepStatus hidden(const int32_t* tokens, size_t n, std::vector<float> scales, float* out);

  private:
    StepStatus make_batch(const int32_t* tokens, const int32_t* sequences, size_t n);
    void finish_batch();
    void load_all(const std::vector<TensorSource>& tensors, bool release);
    void load_vector(size_t id, const TensorSource& source);

    EngineOptions options_;
    Program program_;
    std::vector<uint32_t> types_;
    Plan plan_;
    Adapters adapters_;
    ThreadPool pool_;
    std::unique_ptr<SequenceStore> sequences_;
    std::unique_ptr<Executor> executor_;
    Region weights_;
    std::vector<int32_t> segment_ids_;
    bool release_ = false;
    size_t embedded_rows_ = 0;  // since embedding pages were last let go of
};

}  // namespace edgellm
