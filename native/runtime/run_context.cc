// SPDX-License-Identifier: MIT
#include "runtime/run_context.h"

#include <cstring>

#include "base/thread_pool.h"

namespace edgellm {

RunContext::RunContext(const ExecutionPlan& plan, const Program& program, const Weights& weights,
                       ThreadPool* pool, size_t context)
    : plan(plan),
      program(program),
      weights(weights),
      pool(*pool),
      kernels(plan.options.isa),
      max_context(context),
      arena_region_(sizeof(float) * plan.options.batch * plan.arena_floats_per_row + 64, false),
      quant_region_(plan.options.batch * plan.quant_bytes_per_row + 64, false),
      arena_(reinterpret_cast<float*>(arena_region_.data())),
      counters_(std::make_unique<Counter[]>(plan.stages.size() * kPhases)) {
    batch.tokens.reserve(plan.options.batch);
    batch.positions.reserve(plan.options.batch);
    batch.segments.reserve(plan.options.batch);
    batch.output_rows.reserve(plan.options.batch);
    output_segments_.reserve(plan.options.batch);
}

void RunContext::start(float* logits) {
    logits_ = logits;
    n_rows = batch.n_rows;
    selected_ = false;
    for (size_t i = 0; i < plan.stages.size() * kPhases; ++i)
        counters_[i].next.store(0, std::memory_order_relaxed);
}

std::pair<size_t, size_t> RunContext::share(size_t n, size_t t) const {
    const size_t threads = n_threads();
    return {n * t / threads, n * (t + 1) / threads};
}

bool RunContext::uneven() const {
    return pool.kinds().uneven();
}

size_t RunContext::n_threads() const {
    return pool.active();
}

size_t RunContext::max_threads() const {
    return pool.size();
}

void RunContext::barrier() const {
    pool.barrier();
}

void RunContext::move_output_rows(size_t t) {
    const auto [begin, end] = share(plan.selected.size(), t);
    for (size_t i = begin; i < end; ++i) {
        const Buffer& b = plan.buffers[static_cast<size_t>(plan.selected[i])];
        float* base = arena_ + b.offset * plan.options.batch;
        // Ascending: a row never overwrites one that is still to move.
        for (size_t r = 0; r < batch.output_rows.size(); ++r) {
            const size_t from = batch.output_rows[r];
            if (from == r) continue;
            std::memcpy(base + r * b.floats_per_row, base + from * b.floats_per_row,
                        b.floats_per_row * sizeof(float));
        }
    }
}

void RunContext::select_output_rows() {
    output_segments_.clear();
    auto of = batch.segments.begin();
    for (size_t i = 0; i < batch.output_rows.size(); ++i) {
        const size_t row = batch.output_rows[i];
        while (row >= of->first_row + of->n_rows) ++of;
        const size_t position = batch.positions[row];
        if (!output_segments_.empty()) {
            Segment& last = output_segments_.back();
            if (last.sequence == of->sequence && last.position + last.n_rows == position) {
                ++last.n_rows;
                continue;
            }
        }
        output_segments_.push_back({of->sequence, i, 1, position});
    }
    n_rows = batch.output_rows.size();
    selected_ = true;
}

QuantRows RunContext::quant_rows(const QuantSlot& slot, const Thread& thread) const {
    if (thread.private_rows != nullptr)
        return quant_rows_in(thread.private_rows + slot.private_offset, slot.n_in, plan.private_rows, n_rows);
    return quant_rows_in(quant_region_.data() + slot.offset * plan.options.batch, slot.n_in,
                         plan.options.batch, n_rows);
}

}  // namespace edgellm
