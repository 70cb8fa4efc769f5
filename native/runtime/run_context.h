// SPDX-License-Identifier: MIT
// Shared state of the runners of all kinds of stages: the batch, values' memory, weights, kernels.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/memory.h"
#include "base/os/os.h"
#include "kernels/attention/attention.h"
#include "kernels/linear/linear.h"
#include "kernels/rows/rows.h"
#include "kernels/state/state.h"
#include "runtime/cache.h"
#include "runtime/plan.h"
#include "runtime/weights.h"

namespace edgellm {

class ThreadPool;

// Rows of a step that belong to one sequence: consecutive in the batch and in the sequence.
struct Segment {
    Sequence* sequence;
    size_t first_row, n_rows;
    size_t position;  // of the first row
};

// With fewer rows than this a stage is so short that waiting for another thread at its end shows.
constexpr size_t kStreamRows = 33;

struct Batch {
    size_t n_rows = 0;
    std::vector<int32_t> tokens;
    std::vector<uint32_t> positions;
    std::vector<Segment> segments;
    std::vector<uint32_t> output_rows;  // ascending
};

struct Kernels {
    explicit Kernels(Isa isa)
        : linear(linear_kernels(isa)),
          rows(row_kernels(isa)),
          attention(attention_kernels(isa)),
          state(state_kernels(isa)) {}

    const LinearKernels& linear;
    const RowKernels& rows;
    const AttentionKernels& attention;
    const StateKernels& state;
};

// A thread of the pool. private_rows: its own memory while it runs a linear stage privately, prologue
// included; nullptr: values are in shared memory.
struct Thread {
    size_t index;
    uint8_t* private_rows = nullptr;
};

// Memory of each thread's own, on pages of its own.
class ThreadScratch {
  public:
    ThreadScratch() = default;
    ThreadScratch(size_t n_threads, size_t n_bytes)
        : stride_(align_up(n_bytes, os::page_size())), memory_(stride_ * n_threads, false) {}

    uint8_t* bytes(size_t thread) const { return memory_.data() + thread * stride_; }
    float* floats(size_t thread) const { return reinterpret_cast<float*>(bytes(thread)); }

  private:
    size_t stride_ = 0;
    Region memory_;
};

// All memory is allocated when it is made.
class RunContext {
  public:
    // context: most tokens of one sequence.
    RunContext(const ExecutionPlan& plan, const Program& program, const Weights& weights, ThreadPool* pool,
               size_t context);

    // Zeroes the work counters of all stages.
    void start(float* logits);
    // Moves output rows to the front of the buffers that later stages read; thread t's share.
    void move_output_rows(size_t t);
    // Later stages run on the output rows, which have been moved.
    void select_output_rows();
    // Rows of the stage that runs, by sequence.
    const std::vector<Segment>& segments() const { return selected_ ? output_segments_ : batch.segments; }
    // The batch's row that a row of the stage that runs was.
    size_t batch_row(size_t row) const { return selected_ ? batch.output_rows[row] : row; }

    float* at(const ValueRef& v, size_t row) const {
        if (v.buffer == kLogitsBuffer) return logits_ + row * v.ld + v.column;
        return arena_ + v.offset + row * v.ld;
    }
    float* at(const ValueRef& v, size_t row, const Thread& thread) const {
        if (thread.private_rows != nullptr && v.private_offset >= 0)
            return reinterpret_cast<float*>(thread.private_rows) + v.private_offset + row * v.ld;
        return at(v, row);
    }
    QuantRows quant_rows(const QuantSlot& slot, const Thread& thread) const;
    // The next unit of work of a stage that no thread has taken yet.
    size_t take(size_t stage, size_t phase) {
        return counters_[stage * kPhases + phase].next.fetch_add(1, std::memory_order_relaxed);
    }
    // Thread t's share of n units: [first, last).
    std::pair<size_t, size_t> share(size_t n, size_t t) const;
    // Calls fn(first, last) for ranges of the stage's rows, which together are thread t's: one share, or,
    // where CPUs differ in speed, parts that it takes as it comes free.
    template <class Fn>
    void for_rows(size_t stage, size_t t, const Fn& fn) {
        constexpr size_t kPartsPerThread = 8;
        if (!uneven()) {
            const auto [first, last] = share(n_rows, t);
            fn(first, last);
            return;
        }
        const size_t part = std::max<size_t>(1, n_rows / (kPartsPerThread * n_threads()));
        for (size_t row; (row = take(stage, kRowPhase) * part) < n_rows;)
            fn(row, std::min(n_rows, row + part));
    }
    // True if CPUs differ in speed: equal shares of the work would end apart.
    bool uneven() const;
    // Threads of the run; threads of any run.
    size_t n_threads() const;
    size_t max_threads() const;
    // Waits until all threads of the run are here.
    void barrier() const;

    const ExecutionPlan& plan;
    const Program& program;
    const Weights& weights;
    ThreadPool& pool;
    const Kernels kernels;
    const size_t max_context;
    Batch batch;
    size_t n_rows = 0;  // of the stage that runs: the batch, or after the selection the output rows

  private:
    // On cache lines of their own: all threads count on them.
    struct alignas(64) Counter {
        std::atomic<uint32_t> next{0};
    };
    static constexpr size_t kRowPhase = 2, kPhases = 3;

    Region arena_region_, quant_region_;
    float* arena_;
    float* logits_ = nullptr;
    bool selected_ = false;
    std::vector<Segment> output_segments_;  // runs of consecutive output rows
    std::unique_ptr<Counter[]> counters_;
};

}  // namespace edgellm
