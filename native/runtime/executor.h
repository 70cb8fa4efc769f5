// SPDX-License-Identifier: MIT
// Runs a plan's stages on a batch of rows. All memory is allocated when it is made; a run neither allocates
// nor throws.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/memory.h"
#include "base/thread_pool.h"
#include "runtime/adapters.h"
#include "runtime/cache.h"
#include "runtime/plan.h"

namespace edgellm {

// Rows of a step that belong to one sequence: consecutive in the batch and in the sequence.
struct Segment {
    Sequence* sequence;
    size_t first_row, n_rows;
    size_t position;  // of the first row
};

struct Batch {
    size_t n_rows = 0;
    std::vector<int32_t> tokens;
    std::vector<uint32_t> positions;
    std::vector<Segment> segments;
    std::vector<uint32_t> output_rows;  // ascending
};

// The most logits, of all rows of a step together, that are found by bounds.
constexpr size_t kMostLargest = 64;

// A weight as the executor reads it.
struct EmbeddingTable {
    const FormatInfo* format = nullptr;
    const uint8_t* rows = nullptr;  // in the file's mapping
    size_t row_bytes = 0, n_bytes = 0;
};

// Nanoseconds per kind of work, summed over steps, as thread 0 sees them (barriers included).
struct Profile {
    bool enabled = false;
    uint64_t angles = 0, rows = 0, linear = 0, head = 0, attend = 0, moe = 0, state = 0;
};

class Executor {
  public:
    Executor(const Plan& plan, const Program& program, const Adapters& adapters, ThreadPool* pool,
             size_t context);

    // Set at load.
    std::vector<std::vector<float>> vectors;  // by VectorId
    std::vector<EmbeddingTable> embeddings;
    std::vector<const uint8_t*> matrix_data;  // per MatrixUse: expert 0, panel 0

    Batch batch;
    Profile profile;
    uint64_t unread_bytes = 0;  // of weights, in all runs

    // logits: (output rows, n_vocab). n_largest: how many of a row's are wanted, 0: all.
    void run(float* logits, size_t n_largest);
    // hidden: (rows, width); stops after the stage that makes it.
    void run_hidden(float* hidden);

    size_t scratch_bytes() const;

  private:
    struct Thread {
        uint8_t* private_memory;
        float* tile;    // kTileFloats
        float* tile2;   // kTileFloats
        float* attend;  // scratch of the attention kernels
        float* row;     // one row of the widest routing
        float* update;  // kTileFloats, where there are adapters
    };

    void run_stages(float* logits, int last_stage);
    void thread_main(size_t t, int last_stage);
    void select_rows(size_t t);
    void compute_angles(size_t t);

    // Rows [begin, end) of the stage's row program. memory: the thread's private memory, or nullptr in shared
    // mode.
    void run_rows(const Stage& stage, size_t begin, size_t end, uint8_t* memory, size_t t);
    void run_row_op(const Stage& stage, const RowOp& op, size_t row, uint8_t* memory, size_t t);
    void kv_write(const RowOp& op, size_t row, const float* k, const float* v);
    void route(const Routing& routing, const float* logits, size_t row, float* scratch);

    void run_linear(size_t s, size_t t, bool prologue_only);
    void multiply_panels(const Stage& stage, size_t s, size_t t, uint8_t* memory);
    void stream_panels(const Stage& stage, size_t s, size_t t, uint8_t* memory);
    void linear_chunk(const Stage& stage, const LinearTask& task, size_t first, size_t last, uint8_t* memory,
                      size_t t);
    void apply_epilogue(const LinearTask& task, size_t column, size_t n, size_t row, float* values,
                        float* out, uint8_t* memory);

    // Whether the stage makes logits of which only the largest are wanted; those it approximates first.
    bool finds_largest(const Stage& stage) const;
    // From approximations of a thread's share of logits to a bound from below on those wanted, and from there
    // to exact ones where they may be among them; a barrier lies between.
    void find_largest(const Stage& stage, size_t t, uint8_t* memory);
    float wanted_threshold(const LinearTask& task, const QuantRows& quant, size_t row, size_t first,
                           size_t last, float* logits);
    // After a run: counts what was not read, and whether finding so many has been worth it.
    void judge_finding(const Stage& stage);

    // Before a run: what adapters each row asks for. After the selection of rows: the same of those left.
    void prepare_scales();
    void select_scales();
    float* row_scales(size_t adapter) { return row_scales_.data() + adapter * plan_.options.batch; }
    void make_low_values(size_t s, uint8_t* memory);
    // Adds what adapters do to the columns of panels [first, last) of a matrix, for `count` rows from `row`
    // on.
    void add_updates(int matrix, size_t first_panel, size_t last_panel, size_t row, size_t count,
                     float* values, size_t ld, float* scratch);

    void run_attend(size_t s, size_t t);
    void run_moe(size_t s, size_t t);
    void group_by_expert(const MoeStage& moe);
    void run_state(size_t s, size_t t);

    float* at(const ValueRef& v, size_t row, uint8_t* memory) const {
        if (v.buffer == kLogitsBuffer) return logits_ + row * v.ld + v.column;
        if (memory != nullptr && v.private_offset >= 0) {
            return reinterpret_cast<float*>(memory) + v.private_offset + row * v.ld;
        }
        return arena_ + v.offset + row * v.ld;
    }
    QuantRows quant_rows(const Stage& stage, int slot, uint8_t* memory) const;
    const float* vector(VectorId id) const {
        return id < 0 ? nullptr : vectors[static_cast<size_t>(id)].data();
    }
    PackedMatrix matrix(int i, size_t expert = 0) const;
    std::pair<size_t, size_t> share(size_t n, size_t t) const;

    static constexpr size_t kTileFloats = 96 * 192;

    const Plan& plan_;
    const Program& program_;
    const Adapters& adapters_;
    ThreadPool* pool_;
    const LinearKernels& linear_;
    const RowKernels& rows_;
    const AttentionKernels& attention_;
    const StateKernels& state_;

    Region arena_region_, quant_region_, private_region_, thread_region_, moe_region_;
    float* arena_ = nullptr;
    uint8_t* quant_ = nullptr;
    float* angles_ = nullptr;
    std::vector<Thread> threads_;
    std::vector<float> partials_;
    std::vector<float> low_values_, row_scales_;  // [row][low_floats], [adapter][row]
    float* low_ = nullptr;
    bool adapted_ = false;  // whether any row of the batch asks for an adapter
    size_t max_chunks_ = 0;
    float* logits_ = nullptr;
    size_t n_rows_ = 0;  // rows of the stage being run
    size_t n_largest_ = 0;
    size_t most_found_ = kMostLargest;  // of all rows together; less where more were not worth it,
    size_t until_retry_ = 0;            // for so many runs
    std::vector<float> thresholds_;     // [row][thread]
    std::atomic<size_t> n_exact_{0};    // panels of the head that were read whole, for each row
    bool selected_ = false;

    // One counter per stage and phase, zeroed before each run.
    struct alignas(64) Counter {
        std::atomic<uint32_t> next{0};
    };
    static constexpr size_t kPhases = 2;
    std::unique_ptr<Counter[]> counters_;

    // Routing of the batch, per slot: experts and their weights, [row][n_used].
    std::vector<std::vector<int32_t>> chosen_;
    std::vector<std::vector<float>> chosen_weight_;
    // The moe stage being run: entries (row, used) in expert order.
    std::vector<uint32_t> entry_row_, entry_of_, expert_begin_;
};

}  // namespace edgellm
